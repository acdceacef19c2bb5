"""Prompts of the benchmark of speculation: code, an article to be summed up, and the beginning of a story."""

from __future__ import annotations

__all__ = ["PROMPTS"]

_CODE = '''\
class Stack:
    """The last item that was added is the first that is taken."""

    def __init__(self):
        self.items = []

    def __len__(self):
        return len(self.items)

    def add(self, item):
        """Add an item."""
        if item is None:
            raise ValueError("an item is needed")
        self.items.append(item)

    def take(self):
        """Remove the next item and return it."""
        if not self.items:
            raise IndexError("there are no items")
        return self.items.pop()

    def peek(self):
        """Return the next item without removing it."""
        if not self.items:
            raise IndexError("there are no items")
        return self.items[-1]


class Queue:
    """The first item that was added is the first that is taken."""

    def __init__(self):
        self.items = []

    def __len__(self):
        return len(self.items)

    def add(self, item):
'''

_ARTICLE = """\
Article:
The harbour of Tallmere will be closed to large ships from Monday, the city council said on Friday. Divers who \
inspected the eastern pier found that salt water had damaged eleven of its forty steel pillars. The pier was \
built in 1968 and was last repaired in 2003. Repairs will cost about nine million euros and will take until the \
end of October.

Fishing boats may still use the western pier, which is made of stone and is not affected. The ferry to the \
island of Sorrel will leave from the neighbouring town of Brake, twenty kilometres to the north, and a free bus \
will take passengers there. Mayor Ines Calder said that safety came first. "We know that this is hard for many \
families in the harbour, and we will help them," she said. The council has set aside two million euros for \
businesses that lose income.

Summary of the most important sentences of the article:
The harbour of Tallmere will be closed to large ships from Monday, the city council said on Friday."""

_STORY = """\
It was late in the evening when the old clockmaker heard somebody knock at his door. He put down his glasses, \
took the lamp from the table and went to see who it was. Outside stood a young woman in a grey coat, with snow \
on her shoulders and"""

PROMPTS = {"code": _CODE, "summary": _ARTICLE, "prose": _STORY}
