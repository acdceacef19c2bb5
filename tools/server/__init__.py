"""`miaotui serve`: the engine over HTTP, in the words of OpenAI's API. docs/serving.md."""
