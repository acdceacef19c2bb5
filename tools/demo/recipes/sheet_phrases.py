"""More ways to say and to ask what product sheets say: patterns, and what may stand around them.

No word that is new in what is held out (`sheets.HELD_FACTS`) occurs here; a test holds that.
"""

from __future__ import annotations

__all__ = [
    "AFTER",
    "ASIDES",
    "BEFORE",
    "COMMON",
    "FIELDS",
    "FIGURES",
    "FRAMES",
    "INVENTED",
    "INVENTED_ASKED",
    "INVENTED_FIELDS",
    "OPENINGS",
    "SAID",
    "VERBS",
    "VERBS_ASKED",
    "VERB_FIELDS",
]

#: Fact -> more sentences that say it.
SAID = {
    "weight": (
        "{it} has a weight of {weight}.",
        "you carry {weight} with {it}.",
        "total weight {weight}.",
        "a weight of {weight} was noted for {it}.",
        "{weight} is what {it} weighs.",
        "{it} is quite light, with a weight of {weight}.",
    ),
    "height": (
        "{it} has a height of {height}.",
        "from foot to lid the height of {it} is {height}.",
        "{it} is {height} high.",
        "total height {height}.",
        "with a height of {height} {it} fits anywhere.",
        "{height} is how tall {it} is.",
    ),
    "cable": (
        "{it} has a cable of {cable}.",
        "cable length: {cable}.",
        "the length of the cable is {cable}.",
        "the cable reaches {cable}.",
        "with {cable} the cable is long enough.",
        "a {cable} cable comes with {it}.",
    ),
    "power": (
        "{it} has a power of {power}.",
        "the power of {it} is {power}.",
        "power use: {power}.",
        "{it} takes {power} from the wall.",
        "{it} runs on {power}.",
        "a motor of {power} is inside.",
    ),
    "volume": (
        "{it} has a volume of {volume}.",
        "{it} has a tank for {volume}.",
        "the volume of the tank is {volume}.",
        "{volume} of water fits in.",
        "{it} can hold {volume}.",
        "tank: {volume}.",
    ),
    "price": (
        "{it} has a price of {price}.",
        "you pay {price} for {it}.",
        "for {price} it is yours.",
        "the shop price is {price}.",
        "today {it} costs {price} and no cent more.",
        "{price} is the price of {it}.",
    ),
    "shipping": (
        "shipping is {shipping}.",
        "you pay {shipping} for shipping.",
        "shipping of {it} costs {shipping}.",
        "the price of shipping is {shipping}.",
        "add {shipping} for shipping.",
        "shipping to your door: {shipping}.",
    ),
    "warranty": (
        "{it} has {warranty} of warranty.",
        "you have a warranty of {warranty}.",
        "the warranty lasts {warranty}.",
        "{warranty} of warranty come with {it}.",
        "{it} is sold with a warranty of {warranty}.",
        "under warranty for {warranty}.",
    ),
    "battery": (
        "the battery holds for {battery}.",
        "the battery of {it} lasts {battery}.",
        "battery: {battery}.",
        "{it} runs {battery} on battery.",
        "with a charged battery {it} works for {battery}.",
        "{battery} of battery life.",
    ),
    "charging": (
        "charging {it} takes {charging}.",
        "{it} charges in {charging}.",
        "time for charging: {charging}.",
        "the battery is charged in {charging}.",
        "charging is done after {charging}.",
        "{charging} of charging are enough.",
    ),
    "colour": (
        "{it} has a colour: {colour}.",
        "{it} is {colour} in colour.",
        "the colour of {it} is {colour}.",
        "in {colour} it looks best.",
        "you get it in the colour {colour}.",
        "painted in {colour}.",
    ),
    "material": (
        "the material is {material}.",
        "the material of {it} is {material}.",
        "{it} is built of {material}.",
        "made of {material}.",
        "inside and outside it is made of {material}.",
        "we use {material} as material.",
    ),
    "country": (
        "country: {country}.",
        "{it} was made in {country}.",
        "we had {it} made in {country}.",
        "the country is {country}.",
        "the parts come from {country}.",
        "{it} comes from our works in {country}.",
    ),
    "extra": (
        "in the box: {extra}.",
        "the box has {extra} for you.",
        "{it} comes in a box with {extra}.",
        "{extra} is included.",
        "included with {it} is {extra}.",
        "you also get {extra} in the box.",
        "{common} in the box you {strange} {extra}.",
        "{common} {strange} comes with {extra}.",
    ),
}

#: Fact -> what a frame asks for: as a noun, and as a clause.
FIELDS = {
    "weight": ("the weight of {it}", "how heavy {it} is", "how much {it} weighs", "what {it} weighs"),
    "height": ("the height of {it}", "how tall {it} is", "how high {it} is"),
    "cable": ("the length of the cable", "how long the cable is", "how long the cable of {it} is"),
    "power": ("the power of {it}", "how much power {it} uses", "how much power {it} needs", "how many watts {it} uses"),
    "volume": ("the volume of {it}", "how much {it} holds", "how much water fits in", "how big the tank is"),
    "price": ("the price of {it}", "how much {it} costs", "what {it} costs", "what I pay for {it}"),
    "shipping": (
        "the price of shipping",
        "what shipping costs",
        "how much shipping is",
        "what you charge for shipping",
    ),
    "warranty": ("the warranty of {it}", "how long the warranty is", "how long the warranty lasts"),
    "battery": ("the battery life of {it}", "how long the battery lasts", "how long {it} runs on battery"),
    "charging": ("the charging time", "how long charging takes", "how long it takes to charge {it}"),
    "colour": ("the colour of {it}", "what colour {it} is", "which colour {it} has"),
    "material": ("the material of {it}", "what {it} is made of", "which material {it} is made of"),
    "country": ("the country of {it}", "where {it} is made", "where {it} comes from", "in which country {it} is made"),
    "extra": ("the things in the box", "what is in the box", "what is included", "what comes with {it}"),
}

#: What may stand around a question; `{asked}` is one of FIELDS' phrases.
FRAMES = (
    "{asked}?",
    "what about {asked}?",
    "can you say {asked}?",
    "I need {asked}.",
    "I wonder {asked}.",
    "we are looking for {asked}, thank you.",
    "so, {asked}?",
    "has anyone found {asked}?",
    "say {asked}.",
    "{strange} {strange} {asked}?",
    "{strange} {asked} {strange}?",
    "{common} {common} {asked}?",
    "{common} {common} {common} {asked} {common}?",
    "{common} {strange} {asked}?",
)
#: What may stand before a sentence and after it, before its point.
BEFORE = (
    "in our test, ",
    "on paper ",
    "in daily use ",
    "as you can read, ",
    "of course ",
    "by the way, ",
    "with {common} and {common}, ",
    "{common}, ",
    "{common} ",
    "{strange} ",
    "{strange}, ",
    "on the {strange} ",
    "from {strange}, ",
    "{common} {common}, ",
    "the {common} {common} {common}, ",
    "{common} {common} ",
    "{strange} {common} ",
)
AFTER = (" in all", " for you", ", {common} {common}", ", {strange} or {common}", " with the {strange}")

#: Sentences that say nothing that is asked for.
ASIDES = (
    "thank you for reading.",
    "{it} is good for {common} and {common}.",
    "we like the {common}.",
    "{common} {common} {common}.",
    "{strange} {strange} {common}.",
    "the {common} is {strange}.",
    "many people have {it} in the {common}.",
    "{it} works well.",
    "made for {strange}.",
)
OPENINGS = (
    "the {kind} {product}.",
    "here is the {product}, a {common} {kind}.",
    "{strange} the {kind} {product}.",
    "{common} {common} {kind} {product}.",
    "{product} {common} {strange} {common} {kind}.",
    "{product}.",
    "{kind}.",
    "a {kind} with the name {product}.",
)

#: Facts that no product has: a noun or a verb of no language, so that only the same word in the question tells.
INVENTED: tuple[str, ...] = (
    "the {noun} is {value}.",
    "{noun}: {value}.",
    "it has a {noun} of {value}.",
    "{it} has a {noun} of {value}.",
    "with a {noun} of {value} it is easy.",
    "the {noun} of {it} is {value}.",
    "{it} comes with a {noun} of {value}.",
    "{noun} {value}.",
    "the {noun} takes {value}.",
    "the {noun} lasts {value}.",
    "{noun} costs {value}.",
    "we give it a {noun} of {value}.",
    "{value} is the {noun}.",
)
#: More ways to say a figure, by a verb that nobody knows.
FIGURES = (
    "the {noun} {strange} {value}.",
    "{strange} {noun} {strange} {value}.",
    "{common} {noun} {strange} {value}.",
    "the {noun} {strange} {strange} {value}.",
    "we {strange} a {noun} of {value}.",
    "{common} {strange} a {noun} of {value}.",
)
VERBS: tuple[str, ...] = (
    "it {noun}s {value}.",
    "{it} {noun}s {value}.",
    "it is {noun}ed {value}.",
    "it {noun}s for {value}.",
    "{it} is {noun}ed in {value}.",
    "it can {noun} {value}.",
    "{it} {noun}s up to {value} {common}.",
)

INVENTED_ASKED: tuple[str, ...] = (
    "what is the {noun}?",
    "what {noun} does {it} have?",
    "how long is the {noun}?",
    "how much is the {noun} of {it}?",
    "what is the {noun} of {it}?",
    "which {noun} does it have?",
    "how big is the {noun}?",
)
INVENTED_FIELDS: tuple[str, ...] = ("the {noun}", "the {noun} of {it}", "how long the {noun} is", "what the {noun} is")
VERBS_ASKED: tuple[str, ...] = (
    "how much does {it} {noun}?",
    "what does {it} {noun}?",
    "how long does {it} {noun}?",
    "how is it {noun}ed?",
)
VERB_FIELDS: tuple[str, ...] = ("what {it} {noun}s", "how much {it} {noun}s", "how {it} is {noun}ed")

#: English words that tell nothing here.
COMMON = tuple(
    """
    about above across after again ago air all almost along already also always among animal answer any area arm
    around ask away baby back bad ball bank base bath bear beautiful become bed before began behind believe
    below best better between bird bit blow board boat body book born bottle bottom bowl boy branch bread break
    bridge bright bring brother brought brown build burn busy butter call came can care careful carry cat catch
    caught center certain chair change cheap check child choose church circle city class clean clear close cloth
    cloud coat cold comfort common cook cool corn corner count course cow cross cry cup cut dance danger day
    deep desire die different dinner dirty dog door double down dream dress drive drop dry dust each ear early
    earth east easy eat edge egg eight else end enough evening ever exact example eye face fact fall family
    famous far farm fast father feel few field fight fire fish fit floor flower fly follow food foot forest
    forget forward free friend friendly front fruit game garden gentle gift girl glad go gold gone grass great
    green ground group grow guess half hand handle happen happy hard hat head hear heart heavy help here hill
    history hole holiday home honest honey hope horse hospital hot hour house hundred hungry hurry idea inside
    island job join jump just key kind kitchen knife lady lake land large laugh lead leaf learn leave left leg
    less lesson letter level lie life lift light like line lip list listen little live lock look lose loud love
    low lucky machine main man many map mark market matter meal mean meat meet middle milk mind minute mirror
    mix modern money month moon morning mother mountain mouth move music narrow nature near neck never new next
    nice night noise north nose nothing number object ocean offer often old open order other outside own page
    pair paper parent park part party past path people perfect person photo picture place plan plane plant plate
    play pocket point poor popular practice pretty problem promise proper public pull push quality question
    quiet quite rain reach read ready real reason record rest rice rich ride right ring river road rock roll
    roof root rope round rule run sad safe sail salt same sand save school sea seat second seed seem sell send
    serious seven shape share sharp shelf shirt shoe short shoulder side sign silence simple sing sister sit
    size skin sky sleep slow small smart smell smile smooth snow soap soft some song soon sound south space
    special spell spend spring square stand star start station stay steam step still stone stop storm story
    strange street strong study such sugar summer sun sure sweet swim tail take talk tall taste teach team ten
    test thick thin thing think thought thousand throw ticket tidy tie till together tomorrow tonight tool tooth
    touch town toy train travel tree trip trouble true trust try turn twice under until upper useful usual
    valley very village visit voice wait walk wall warm wash watch wave way wear weather week well west wet
    wheel white whole wide wild win wind window wing winter wish woman wonder wood word work world worry write
    wrong yard year yellow yesterday young
    """.split()  # noqa: SIM905 - as a text they fill thirty lines, as a list five hundred
)
