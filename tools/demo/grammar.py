"""What the demo model's stories are about: who, where, and twelve plots as beats told in several ways.

`{hero}` and `{pal}` are names; `{he} {him} {his} {himself}` follow the hero and `{she} {her} {hers}` the friend
(`{hers}` stands before a noun), a girl or a boy, each of them. The other names in braces are drawn once for a story
from `SLOTS`: the red kite of the first sentence is a red kite in the last. `corpus.py` puts the pieces together.
"""

from __future__ import annotations

__all__ = ["BOYS", "ENDINGS", "FIRST", "GIRLS", "HEROES", "LAST", "MIDDLE", "OPENINGS", "PLOTS", "SLOTS"]

GIRLS = ("Lily", "Mia", "Anna", "Sara", "Ruby", "Nora", "Emma", "Zoe", "Lucy", "Ella", "Mei", "Ada")
BOYS = ("Tom", "Ben", "Max", "Sam", "Leo", "Finn", "Jack", "Tim", "Oscar", "Hugo", "Ming", "Otto")

#: Names nobody has: a girl's ends as the first of LAST do, a boy's as the second.
FIRST = ("Bel", "Dor", "Fen", "Gal", "Kir", "Lun", "Mar", "Nim", "Pel", "Rov", "Sul", "Tam", "Vel", "Wil", "Yor", "Zan")
MIDDLE = ("", "an", "el", "id", "im", "or", "ub")
LAST = (("a", "i", "ina", "elle"), ("o", "ik", "us", "ard"))

#: What a hero or a friend may be; what it is decides nothing else.
HEROES = (
    "little girl|little boy", "kind girl|kind boy", "young fox", "small rabbit", "brown bear", "gray mouse",
    "little duck", "clever cat", "happy dog", "young squirrel", "shy hedgehog", "white goat",
)  # fmt: skip

OPENINGS = (
    "Once upon a time, there was a {kind} named {hero}.",
    "Once upon a time, a {kind} named {hero} lived {home}.",
    "Once upon a time, in a house {home}, there lived a {kind} named {hero}.",
    "There once was a {kind} named {hero}. {He} lived {home}.",
    "{hero} was a {kind} who lived {home}.",
    "One {weather} day, a {kind} named {hero} woke up early.",
    "Long ago, a {kind} named {hero} lived {home}.",
)

ENDINGS = (
    "From that day on, {hero} and {pal} were best friends.",
    "That night, {hero} went to bed with a smile.",
    "{hero} and {pal} laughed all the way home.",
    "It was the best day of {his} life.",
    "And they all lived happily ever after.",
    "{hero} never forgot that day.",
    "Then the sun went down, and everyone went home happy.",
)

SLOTS = {
    "home": ("near the forest", "by the sea", "on a green hill", "beside the river", "in a small village",
             "at the edge of the town", "under an old oak tree"),
    "weather": ("sunny", "windy", "warm", "cold", "bright", "cloudy"),
    "place": ("the park", "the forest", "the meadow", "the garden", "the woods", "the orchard"),
    "thing": ("red ball", "blue kite", "yellow hat", "toy boat", "silver bell", "green scarf", "little drum",
              "wooden train", "golden key"),
    "spot": ("under a bush", "behind a big rock", "in the tall grass", "at the top of a tree", "beside the pond",
             "inside an empty log"),
    "food": ("cherry pie", "honey cake", "basket of berries", "loaf of warm bread", "bag of nuts", "bowl of cherries"),
    "skill": ("swim", "dance", "whistle", "paint", "sing", "climb trees", "ride a bike", "play the flute"),
    "elder": ("{his} grandmother", "{his} grandfather", "{his} mother", "{his} father", "the old owl",
              "the wise turtle"),
    "creature": ("bird", "kitten", "butterfly", "puppy", "fawn", "lamb"),
    "gift": ("a crown of flowers", "a painted stone", "a warm blanket", "a boat made of paper", "a necklace of shells",
             "a little wooden horse"),
    "broken": ("blue vase", "big window", "favorite cup", "wall clock", "flower pot", "glass lamp"),
    "fear": ("the dark", "the deep water", "the thunder", "high places", "the old bridge"),
    "plant": ("a sunflower", "a pumpkin", "a rose", "an apple tree", "a bean plant"),
    "prize": ("a shiny medal", "a big cake", "a golden cup", "a blue ribbon"),
    "game": ("hide and seek", "catch", "tag", "a game of pirates", "a game with marbles"),
}  # fmt: skip

LOST = (
    ("{He} had a {thing} and took it everywhere.",
     "{His} favorite thing in the world was a {thing}.",
     "For {his} birthday, {he} got a {thing}. {He} loved it very much."),
    ("One day, {hero} went to {place} to play. When {he} wanted to go home, the {thing} was gone.",
     "One {weather} morning, {he} played in {place} all day. But then {he} could not find the {thing}.",
     "One day, the wind took the {thing} and blew it away, all the way to {place}."),
    ("{hero} looked here and there, but {he} could not see it. {He} began to cry.",
     '{He} looked everywhere. "Oh no! Where is my {thing}?" {he} cried.',
     '{hero} was very sad. "I lost my {thing}," {he} said. "What can I do?"'),
    ('A {palkind} named {pal} heard {him}. "Why are you sad?" asked {pal}.',
     'Then a {palkind} named {pal} came by. "What is wrong?" {pal} asked.',
     'Just then, {he} met a {palkind} named {pal}. "Do not cry," said {pal}.'),
    ('"I lost my {thing}," said {hero}. "I will help you look," said {pal}.',
     '"My {thing} is gone," said {hero}. "Let us look for it together!" said {pal}.'),
    ("They looked and looked. At last, they saw the {thing} {spot}.",
     "{pal} had sharp eyes. Soon {she} saw something {spot}. It was the {thing}!",
     "They walked slowly and looked around. And there it was, {spot}!"),
    ('"Thank you, {pal}!" said {hero}. "You are a good friend."',
     '{hero} was so happy that {he} jumped up and down. "Thank you!" {he} said.',
     '{hero} hugged {pal}. "I could not find it without you," {he} said.'),
    ("They played with the {thing} until the sun went down.",
     "Then {hero} let {pal} play with the {thing} too."),
)  # fmt: skip

FEAR = (
    ("{hero} was kind and clever, but {he} was afraid of {fear}.",
     "There was only one thing that {hero} did not like. {He} was afraid of {fear}."),
    ("{His} friend {pal}, a {palkind}, was not afraid of anything.",
     "{He} had a friend named {pal}. {pal} was a {palkind}, and {she} was very brave."),
    ('"Why are you afraid of {fear}?" asked {pal}. "I do not know," said {hero}. "My heart goes boom, boom, boom."',
     '"Are you afraid of {fear}?" asked {pal}. "Yes," said {hero} in a small voice. "Very much."'),
    ('One day, {hero} heard a cry. "Help! Help!" It was {pal}! {She} had hurt {hers} leg and could not walk.',
     'One evening, {pal} did not come home. {hero} went out and called. "I am here!" cried {pal}. "I am stuck!"'),
    ("{hero} thought of {fear} and wanted to run away. But then {he} thought of {pal}.",
     '{hero} was afraid. {His} legs shook. "But {pal} needs me," {he} said.'),
    ("{He} took a deep breath and went, step by step, until {he} reached {pal}.",
     "{He} closed {his} eyes, counted to three, and went. Soon {he} found {pal} {spot}."),
    ('"You came!" said {pal}. "You are the bravest friend I know."',
     '{pal} smiled. "You were afraid, and you came anyway," {she} said. "That is what brave means."'),
    ("After that, {hero} was not so afraid of {fear} any more.",
     "Now {hero} knew that {he} could be brave."),
)  # fmt: skip

SHARING = (
    ("One {weather} day, {he} had a {food}. It smelled very good.",
     'One day, {his} mother gave {him} a {food}. "Yum!" said {hero}.'),
    ("{hero} took it to {place} to eat it all alone.",
     "{He} sat down in {place} and wanted to eat it all by {himself}."),
    ("Then a {palkind} named {pal} came by. {pal} was very hungry.",
     "A {palkind} named {pal} sat there too. {She} had nothing to eat."),
    ('"May I have some?" asked {pal}. "No!" said {hero}. "It is mine."',
     '"That looks good," said {pal}. "Can I have a little?" But {hero} shook {his} head and said no.'),
    ("{pal} looked sad and went away. {hero} began to eat, but it did not taste good.",
     "{pal} said nothing and looked at the ground. Now {hero} felt bad inside."),
    ('"It is no fun to eat alone," thought {hero}. {He} ran after {pal}.',
     "{hero} thought about it for a while. Then {he} stood up and went to {pal}."),
    ('"I am sorry," {he} said. "Let us share the {food}."',
     '"I was not nice," said {hero}. "Please, have some with me."'),
    ("They ate together, and it tasted better than ever before.",
     "{pal} was very happy. They ate and talked and laughed."),
    ("{hero} learned that sharing makes everything better.",
     '"Sharing is more fun," said {hero}, and {pal} agreed.'),
)  # fmt: skip

LEARNING = (
    ("More than anything, {hero} wanted to {skill}.",
     "{hero} had a dream. {He} wanted to learn to {skill}."),
    ("{He} tried in the morning. {He} tried in the evening. But it did not work.",
     "One day, {he} tried it for the first time. It was very hard, and {he} could not do it."),
    ("{His} friend {pal} saw it. {pal} was a {palkind} who could {skill} very well.",
     "A {palkind} named {pal} watched {him}. {pal} knew how to {skill}."),
    ('"I will never learn to {skill}," said {hero}, and {he} sat down and cried.',
     '"I give up!" said {hero}. "I am not good at it."'),
    ('"When I was small, I could not {skill} either," said {pal}. "I will show you."',
     '"Nobody can do it on the first day," said {pal}. "Let us try it together."'),
    ("Every day they went to {place} and practiced. Every day it got a little better.",
     "{pal} showed {him} how to do it, slowly, again and again. {hero} tried and tried."),
    ('Then, one {weather} day, it worked! "Look!" cried {hero}. "I can {skill}!"',
     "And one morning, all at once, {hero} could {skill}. {He} could not believe it."),
    ('"I knew you could do it," said {pal}. {She} was very proud.',
     '{pal} clapped. "You did not give up," {she} said. "That is why you can do it now."'),
)  # fmt: skip

HEALING = (
    ("One {weather} day, {he} walked in {place} and heard a tiny sound.",
     "One day, when {hero} was in {place}, {he} saw something small {spot}."),
    ("It was a little {creature}. It was hurt and could not move.",
     "There was a little {creature}. It was cold and wet and all alone."),
    ('"Poor {creature}," said {hero}. "Do not be afraid. I will help you."',
     '{hero} felt sorry for the {creature}. "I will take care of you," {he} said.'),
    ("{He} took it home and made a soft bed for it in a box.",
     "Very gently, {he} carried it home and put it near the warm fire."),
    ("{His} friend {pal}, a {palkind}, brought water and food.",
     'A {palkind} named {pal} lived next door. "I will help too," said {pal}, and {she} brought some milk.'),
    ("Every day, {hero} and {pal} looked after the {creature}. Slowly it got stronger.",
     "They fed the {creature} every morning and sang to it every night."),
    ("After many days, the {creature} was well again. It was time to say goodbye.",
     "When spring came, the {creature} was big and strong. It wanted to go home."),
    ('{hero} was a little sad, but {he} opened the door. "Goodbye, little {creature}!" {he} said.',
     '"We must let it go," said {pal}. {hero} opened the door and waved.'),
    ("The next year, the {creature} came back to visit them.",
     "And every spring, the {creature} came back to say hello."),
)  # fmt: skip

GIFT = (
    ("{His} best friend was a {palkind} named {pal}. Soon it was {pal}'s birthday.",
     "{He} had a friend, a {palkind} named {pal}, who had a birthday the next day."),
    ("{hero} wanted to give {her} a present, but {he} had no money.",
     '"What can I give to {pal}?" thought {hero}. {He} had only one coin.'),
    ("{He} went to the shop and looked at the {thing} in the window. It cost too much.",
     "In the shop there was a beautiful {thing}. But {hero} could not buy it."),
    ("{hero} was sad. {He} walked to {place} and sat down to think.",
     '{He} asked {elder} what to do. "The best presents come from the heart," was the answer.'),
    ('Then {he} had an idea. "I will make something!" {he} said.',
     "All at once {he} knew what to do. {He} began to work at once."),
    ("All night {he} worked, and in the morning it was ready. It was {gift}.",
     "{He} worked hard until it was done. It was {gift}."),
    ("At the party, {pal} got many presents. But when {she} saw what {hero} had made, {she} smiled the most.",
     "{hero} was afraid that {pal} would not like it. But {pal} hugged {him}."),
    ('"You made it for me," said {pal}. "That is the best present of all."',
     '"I love it!" said {pal}. "Nobody else has one like this."'),
)  # fmt: skip

TRUTH = (
    ("One day, {he} played in the house, although {his} mother had said no.",
     "One {weather} day, {hero} ran through the house with a {thing}."),
    ("There was a loud crash. The {broken} fell down and broke!",
     "Crash! {He} looked around. The {broken} was broken."),
    ("{hero} was afraid. {He} hid the pieces under {his} bed.",
     '"Oh no," said {hero}. Quickly, {he} hid everything in a box.'),
    ('"Who broke the {broken}?" asked {his} mother. "I do not know," said {hero}.',
     "In the evening, {his} mother asked about the {broken}. {hero} looked at the floor and said nothing."),
    ("That night, {hero} could not sleep. {His} tummy hurt.",
     "{hero} felt bad. {He} did not want to eat or play."),
    ('The next day, {he} told {his} friend {pal}, a {palkind}. "You should tell the truth," said {pal}.',
     '{He} went to a {palkind} named {pal}. "Tell the truth," said {pal}, "and you will feel better."'),
    ('So {hero} went to {his} mother. "I broke the {broken}," {he} said. "I am sorry."',
     "{hero} was very nervous, but {he} told {his} mother everything."),
    ('{His} mother was not angry. "Thank you for telling the truth," she said.',
     '{His} mother hugged {him}. "Things can break," she said. "But the truth is important."'),
    ("Together they put the pieces back with glue.",
     "Then {hero} and {pal} cleaned the whole house, and {his} mother smiled."),
)  # fmt: skip

STORM = (
    ("One night, there was a big storm. The rain fell and the wind howled.",
     "One day, dark clouds came, and it began to rain very hard."),
    ("{hero} sat by the warm fire with a {food}. {He} was glad to be inside.",
     "{hero} closed the door and made some tea. It was warm and dry inside."),
    ("Knock, knock, knock! Somebody was at the door.",
     "Then {he} heard a knock. Who could it be?"),
    ('It was a {palkind} named {pal}, wet from head to toe. "Please, may I come in?" asked {pal}.',
     'There stood a {palkind} named {pal}. {She} was cold and shook all over. "I lost my way," said {pal}.'),
    ('"My house is very small," said {hero}, "but there is room for a friend."',
     '"Come in, come in!" said {hero}. "Sit by the fire and get warm."'),
    ("Knock, knock! Now a {creature} was there, and then another one. {hero} let them all in.",
     'Soon there was another knock. It was a little {creature} with wet feet. "Come in too!" said {hero}.'),
    ("They shared the {food} and told stories until the storm was over.",
     "All night long they sang songs and played {game}. Nobody thought of the storm."),
    ('In the morning, the sun came out. "Thank you for your kind heart," said {pal}.',
     'When the sun came up, there was a rainbow over the hill. "Look!" said {pal}. "How beautiful!"'),
)  # fmt: skip

GARDEN = (
    ('One day, {elder} gave {him} a tiny seed. "Plant it and wait," {he} heard.',
     "One spring day, {hero} found a tiny seed {spot}."),
    ("{hero} put it into the ground and gave it some water.",
     "{He} made a small hole in the garden, put in the seed, and covered it."),
    ('The next morning, {he} ran outside. Nothing was there. "Why does it not grow?" {he} asked.',
     "{He} waited one day. {He} waited two days. But nothing happened, and {he} was sad."),
    ('{His} friend {pal}, a {palkind}, laughed. "Good things take time," said {pal}.',
     'A {palkind} named {pal} looked over the fence. "You must be patient," said {pal}.'),
    ("So {hero} gave it water every day. When it was hot, {he} made some shade.",
     "Every day {hero} and {pal} gave it water and talked to it."),
    ('After a week, there was a small green leaf. "It grows!" cried {hero}.',
     "Then, one {weather} morning, something green looked out of the ground."),
    ("It grew and grew. By the end of summer, it was {plant}, taller than {hero}!",
     "Every day it was a little bigger, until it was {plant}, the most beautiful in the village."),
    ('"You were right," said {hero} to {pal}. "Good things take time."',
     "{hero} was very proud, and {he} gave {pal} some new seeds to plant."),
)  # fmt: skip

RACE = (
    ("Every year there was a big race to {place}. The winner would get {prize}.",
     "One day, there was a race in {place}. The prize was {prize}."),
    ("{hero} was very fast, and {he} wanted to win.",
     "{hero} practiced every day, because {he} wanted to be first."),
    ('"Ready, set, go!" Everybody ran. Soon {hero} was in front.',
     "The race began. {hero} ran like the wind and left everyone behind."),
    ("Then {he} heard a cry. A {palkind} named {pal} had fallen down.",
     "But near the end, {he} saw a {palkind} named {pal} who sat on the ground and cried."),
    ('"My foot hurts," said {pal}. "Go on, or you will lose."',
     '"I hurt my foot," said {pal}. "I can not walk."'),
    ("{hero} looked at the finish line. Then {he} looked at {pal}. {He} stopped and helped {her} up.",
     "{hero} wanted to win so much. But {he} could not leave {pal} there, so {he} turned around."),
    ("Slowly, they walked to the end together. They were the last.",
     "{pal} held on to {him}, and step by step they came to the finish line, long after the others."),
    ('But everybody clapped and cheered. "You have the biggest heart," they said, and {hero} got {prize} too.',
     '"I lost the race," said {hero}, "but I found a friend." And that was better than {prize}.'),
)  # fmt: skip

MOON = (
    ('Every night, {hero} looked at the moon. "I want to touch it," {he} said.',
     "{hero} loved the moon. {He} wanted to hold it in {his} hands."),
    ("One night, {he} climbed to the top of the big hill. But the moon was still far away.",
     "First {he} climbed the tallest tree. But the moon was too high."),
    ("Then {he} jumped as high as {he} could. {He} fell down and hurt {his} knee.",
     "Then {he} made a long ladder. But the ladder was too short."),
    ('A {palkind} named {pal} saw it. "What are you doing?" asked {pal}.',
     '{His} friend {pal}, a {palkind}, came by. "Why are you so sad?" {pal} asked.'),
    ('"I want to touch the moon," said {hero}, "but it is too far away."',
     '"The moon is so beautiful," said {hero}, "and I can not reach it."'),
    ('{pal} smiled. "Come with me," {she} said, and they walked to the pond.',
     '{pal} thought for a while. "I know a place," {she} said. "Follow me to the pond."'),
    ("There, in the still water, was the moon, round and white. {hero} put in {his} hand and touched it.",
     "The moon was in the water! {hero} laughed and touched it with one finger, and it danced."),
    ('"The moon came down to me!" said {hero}. {pal} laughed too.',
     '"Now I have touched the moon," said {hero}. "Thank you, {pal}."'),
)  # fmt: skip

NEIGHBOR = (
    ("One day, somebody moved into the house next door. It was a {palkind} named {pal}.",
     "One {weather} morning, a new neighbor came. It was {pal}, a {palkind}."),
    ("{pal} was shy and did not speak. {She} always stayed inside.",
     "{pal} did not know anybody there. {She} looked out of the window and felt lonely."),
    ('{hero} saw it. "Maybe {she} wants to be my friend," {he} thought.',
     '"Nobody should be alone," thought {hero}.'),
    ('{He} knocked on the door with a {food} in {his} hands. "Hello! I am {hero}. Do you want to play?"',
     'The next day, {he} went over with a {thing}. "Hi, my name is {hero}. Do you like to play {game}?"'),
    ('{pal} opened the door just a little. "I do not know how," {she} said.',
     '{pal} looked at {hers} shoes. "I am not good at games," {she} said in a quiet voice.'),
    ('"That is easy," said {hero}. "I will show you."',
     '"That does not matter," said {hero}. "I can teach you."'),
    ("They went to {place} and played {game} all day long.",
     "Soon they were in {place}, and {pal} laughed for the first time."),
    ('"I was afraid to come here," said {pal}. "But now I have a friend."',
     '"Can you come again tomorrow?" asked {pal}. "Of course!" said {hero}.'),
)  # fmt: skip

PLOTS = (LOST, FEAR, SHARING, LEARNING, HEALING, GIFT, TRUTH, STORM, GARDEN, RACE, MOON, NEIGHBOR)
