"""Chat templates of well-known models' public prompt formats, in our own words; conversations to render with them.

The formats are those that the models' cards describe; no template file of theirs is copied.
"""

# ruff: noqa: E501 - a template's lines are as long as its text asks

from __future__ import annotations

from typing import Any

__all__ = ["CONVERSATIONS", "FORMATS", "TOKENS", "TOOLS"]

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}

_ALTERNATE = (
    "{%- for m in chat -%}{%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{ raise_exception('user and assistant must take turns') }}{%- endif -%}{%- endfor -%}"
)
_SPLIT = (
    "{%- if messages[0].role == 'system' -%}{%- set system = messages[0].content -%}{%- set chat = messages[1:] -%}"
    "{%- else -%}{%- set system = none -%}{%- set chat = messages -%}{%- endif -%}"
)

CHATML = """\
{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

LLAMA_2 = (
    _SPLIT
    + _ALTERNATE
    + """
{%- for m in chat -%}
  {%- set text = '<<SYS>>\n' ~ system ~ '\n<</SYS>>\n\n' ~ m.content if loop.first and system is not none else m.content -%}
  {%- if m.role == 'user' -%}
    {{ bos_token + '[INST] ' + text.strip() + ' [/INST]' }}
  {%- else -%}
    {{ ' ' + text.strip() + ' ' + eos_token }}
  {%- endif -%}
{%- endfor -%}"""
)

LLAMA_3 = """\
{{- bos_token }}
{%- set date = date_string if date_string is defined else strftime_now('%d %b %Y') %}
{%- if messages[0]['role'] == 'system' %}
    {%- set told = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set told = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}
{%- if tools is not none %}
    {{- 'Environment: ipython\n' }}
{%- endif %}
{{- 'Cutting Knowledge Date: December 2023\nToday Date: ' + date + '\n\n' }}
{%- if tools is not none %}
    {{- 'You may call these functions, in JSON with name and parameters:\n\n' }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- '\n\n' }}
    {%- endfor %}
{%- endif %}
{{- told + '<|eot_id|>' }}
{%- for m in messages %}
    {%- if not (m.role == 'tool' or 'tool_calls' in m) %}
        {{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in m %}
        {%- if m.tool_calls | length != 1 %}
            {{- raise_exception('one call at a time') }}
        {%- endif %}
        {%- set call = m.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\n\n{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson }}
        {{- '}<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\n\n' }}
        {{- m.content | tojson if m.content is mapping or m.content is iterable else m.content }}
        {{- '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""

MISTRAL = (
    _SPLIT
    + """
{%- set ns = namespace(turn=0) -%}
{%- for m in chat -%}
  {%- if m.role in ['user', 'assistant'] and m.tool_calls is not defined -%}
    {%- if (m.role == 'user') != (ns.turn % 2 == 0) -%}
      {{- raise_exception('After the system message, user and assistant must take turns.') -}}
    {%- endif -%}
    {%- set ns.turn = ns.turn + 1 -%}
  {%- endif -%}
{%- endfor -%}
{{ bos_token }}
{%- for m in chat -%}
  {%- if m.role == 'user' -%}
    {%- if tools is not none and m == (chat | selectattr('role', 'equalto', 'user') | list)[-1] -%}
      {{ '[AVAILABLE_TOOLS] [' }}
      {%- for t in tools -%}
        {{ '{"type": "function", "function": {' }}
        {%- for key, value in t.function.items() if key != 'return' -%}
          {%- if value is string -%}{{ '"' + key + '": "' + value + '"' }}
          {%- else -%}{{ '"' + key + '": ' + value | tojson }}{%- endif -%}
          {%- if not loop.last %}{{ ', ' }}{% endif -%}
        {%- endfor -%}
        {{ '}}' }}{%- if not loop.last %}{{ ', ' }}{% else %}{{ ']' }}{% endif -%}
      {%- endfor -%}
      {{ '[/AVAILABLE_TOOLS]' }}
    {%- endif -%}
    {%- if loop.last and system is not none -%}
      {{ '[INST] ' + system + '\n\n' + m.content + '[/INST]' }}
    {%- else -%}
      {{ '[INST] ' + m.content + '[/INST]' }}
    {%- endif -%}
  {%- elif m.tool_calls is defined -%}
    {{ '[TOOL_CALLS] [' }}
    {%- for c in m.tool_calls -%}
      {{ (c.function | tojson)[:-1] + ', "id": "' + c.id + '"}' }}{{ ', ' if not loop.last else ']' + eos_token }}
    {%- endfor -%}
  {%- elif m.role == 'assistant' -%}
    {{ ' ' + m.content | trim + eos_token }}
  {%- else -%}
    {{ '[TOOL_RESULTS] {"content": ' + m.content | string + ', "call_id": "' + m.tool_call_id + '"}[/TOOL_RESULTS]' }}
  {%- endif -%}
{%- endfor -%}"""
)

GEMMA = """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{% for m in messages %}
{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{% set who = 'model' if m['role'] == 'assistant' else m['role'] %}
{{ '<start_of_turn>' + who + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""

PHI_3 = """\
{% for m in messages %}{% if m['content'] %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endif %}{% endfor %}
{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"""

ZEPHYR = """\
{% for m in messages %}
{% if m['role'] == 'user' %}
{{ '<|user|>\n' + m['content'] + eos_token }}
{% elif m['role'] == 'system' %}
{{ '<|system|>\n' + m['content'] + eos_token }}
{% elif m['role'] == 'assistant' %}
{{ '<|assistant|>\n'  + m['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

VICUNA = (
    _SPLIT
    + _ALTERNATE
    + """
{%- if system is none -%}
  {%- set system = 'A chat between a curious user and an artificial intelligence assistant.' -%}
{%- endif -%}
{{ bos_token + system }}
{%- for m in chat -%}
  {{ ' USER: ' + m.content | trim if m.role == 'user' else ' ASSISTANT: ' + m.content | trim + eos_token }}
{%- endfor -%}
{{ ' ASSISTANT:' if add_generation_prompt }}"""
)

QWEN = """\
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {{- messages[0]['content'] if messages[0]['role'] == 'system' else 'You are a helpful assistant.' }}
    {{- "\n\n# Tools\n\nYou may call one or more functions.\n\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools>\n\nAnswer with <tool_call></tool_call> around JSON.<|im_end|>\n" }}
{%- elif messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
{%- else %}
    {{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}
{%- endif %}
{%- for m in messages %}
    {%- if (m.role == "user") or (m.role == "system" and not loop.first) or (m.role == "assistant" and not m.tool_calls) %}
        {{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}
    {%- elif m.role == "assistant" %}
        {{- '<|im_start|>' + m.role }}
        {%- if m.content %}
            {{- '\n' + m.content }}
        {%- endif %}
        {%- for call in m.tool_calls %}
            {%- if call.function is defined %}
                {%- set call = call.function %}
            {%- endif %}
            {{- '\n<tool_call>\n{"name": "' }}
            {{- call.name }}
            {{- '", "arguments": ' }}
            {{- call.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif m.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\n<tool_response>\n' }}
        {{- m.content }}
        {{- '\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""

QWEN_THINKS = """\
{%- set ns = namespace(last=messages | length - 1) %}
{%- for m in messages[::-1] %}
    {%- if m.role == 'user' %}
        {%- set ns.last = messages | length - 1 - loop.index0 %}
        {%- break %}
    {%- endif %}
{%- endfor %}
{%- for m in messages %}
    {%- if m.role == 'assistant' %}
        {%- set text = m.content if m.content is string else '' %}
        {%- set thought = m.reasoning_content if m.reasoning_content is string else '' %}
        {%- if not thought and '</think>' in text %}
            {%- set thought = text.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set text = text.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\n' }}
        {%- if loop.index0 > ns.last and (loop.last or thought) %}
            {{- '<think>\n' + thought.strip('\n') + '\n</think>\n\n' }}
        {%- endif %}
        {%- generation %}{{- text.lstrip('\n') }}{%- endgeneration %}
        {{- '<|im_end|>\n' }}
    {%- elif m.role in ('user', 'system') %}
        {{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
    {%- else %}
        {%- continue %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}"""

DEEPSEEK = """\
{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}
{%- set ns = namespace(system='', tool=false) -%}
{%- for m in messages %}{% if m['role'] == 'system' %}{% set ns.system = ns.system + m['content'] %}{% endif %}{% endfor -%}
{{ bos_token }}{{ ns.system }}
{%- for m in messages -%}
{%- if m['role'] == 'user' -%}{%- set ns.tool = false -%}{{ '<!User!>' + m['content'] }}{%- endif -%}
{%- if m['role'] == 'assistant' and 'tool_calls' in m and m['tool_calls'] is not none -%}
{%- for call in m['tool_calls'] -%}
{{ '<!Assistant!><!tool▁calls▁begin!>' if loop.first else '\n' }}
{{- '<!tool▁call▁begin!>' + call['type'] + '<!tool▁sep!>' + call['function']['name'] + '\n```json\n' }}
{{- call['function']['arguments'] | tojson }}{{ '\n```<!tool▁call▁end!>' }}
{%- endfor -%}
{{ '<!tool▁calls▁end!><!end▁of▁sentence!>' }}
{%- elif m['role'] == 'assistant' -%}
{{ ('<!tool▁outputs▁end!>' if ns.tool else '<!Assistant!>') + m['content'].split('</think>')[-1] }}
{{- '<!end▁of▁sentence!>' }}{%- set ns.tool = false -%}
{%- elif m['role'] == 'tool' -%}
{{ ('' if ns.tool else '<!tool▁outputs▁begin!>') + '<!tool▁output▁begin!>' }}{{ m['content'] }}{{ '<!tool▁output▁end!>' }}
{%- set ns.tool = true -%}
{%- endif -%}
{%- endfor -%}
{% if add_generation_prompt and not ns.tool %}{{ '<!Assistant!><think>\n' }}{% endif %}""".replace(
    "!", "\N{FULLWIDTH VERTICAL LINE}"
)

COMMAND_R = (
    """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set told = messages[0]['content'] %}
{% else %}{% set loop_messages = messages %}{% set told = 'You are a large language model.' %}{% endif %}
{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|># Safety Preamble\nStay safe.\n\n# System Preamble\n' + told }}
{%- macro kind(type) -%}{{ {'string': 'str', 'integer': 'int', 'number': 'float', 'array': 'List'}.get(type, type) }}{%- endmacro -%}
{%- if tools -%}
{{ '\n\n## Available Tools\n\n' }}
{%- for t in tools -%}
{{ '```python\ndef ' + t.function.name + '(' }}
{%- for name, of in t.function.parameters.properties.items() -%}
{{ name + ': ' + kind(of.type) + (', ' if not loop.last else '') }}
{%- endfor -%}
{{ ') -> List[Dict]:\n    """
    " + t.function.description + "
    """\n    pass\n```' }}{{ '\n\n' if not loop.last }}
{%- endfor -%}
{%- endif -%}
{{ '<|END_OF_TURN_TOKEN|>' }}
{%- for m in loop_messages -%}
{%- if m.role == 'user' -%}{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + m.content.strip() + '<|END_OF_TURN_TOKEN|>' }}
{%- elif m.role == 'assistant' and m.content is defined -%}
{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>'  + m.content.strip() + '<|END_OF_TURN_TOKEN|>' }}{%- endif -%}
{%- endfor -%}
{%- if documents -%}
{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|><results>' }}
{%- for d in documents -%}
{{ '\nDocument: ' }}{{ loop.index0 }}{{ '\n' }}
{%- for key, value in d.items() -%}{{ key ~ ': ' ~ value ~ '\n' }}{%- endfor -%}
{%- endfor -%}
{{ '</results><|END_OF_TURN_TOKEN|>' }}
{%- endif -%}
{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' if add_generation_prompt }}"""
)

OLMO = """\
{{ bos_token }}{% for m in messages %}
{% if m['role'] in ['system', 'user'] %}{{ '<|' ~ m['role'] ~ '|>\n' ~ m['content'] ~ '\n' }}
{%- elif m['role'] == 'assistant' %}
{{ '<|assistant|>\n'  + m['content'] + eos_token + ('' if loop.last else '\n') }}
{%- endif %}{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"""

GRANITE = """\
{%- if messages[0]['role'] == 'system' %}
    {%- set told = messages[0]['content'] %}
    {%- set chat = messages[1:] %}
{%- else %}
    {%- set told = "Knowledge Cutoff Date: April 2024.\nToday's Date: " + strftime_now('%B %d, %Y') + "." %}
    {%- if tools and documents %}
        {%- set told = told + " You have tools and documents." %}
    {%- elif tools %}
        {%- set told = told + " You have tools." %}
    {%- endif %}
    {%- if controls and 'length' in controls %}
        {%- set told = told + ' Be ' ~ controls['length'] ~ '.' %}
    {%- endif %}
    {%- set chat = messages %}
{%- endif %}
{{- '<|start_of_role|>system<|end_of_role|>' + told + '<|end_of_text|>\n' }}
{%- if tools %}
    {{- '<|start_of_role|>available_tools<|end_of_role|>' + tools | tojson(indent=4) + '<|end_of_text|>\n' }}
{%- endif %}
{%- if documents %}
    {{- '<|start_of_role|>documents<|end_of_role|>' }}
    {%- for d in documents %}
        {{- 'Document ' + loop.index0 | string + '\n' + d['text'] }}{{ '\n\n' if not loop.last }}
    {%- endfor %}
    {{- '<|end_of_text|>\n' }}
{%- endif %}
{%- for m in chat %}
    {{- '<|start_of_role|>' + m['role'] + '<|end_of_role|>' + (m['content'] | default('', true)) | string + '<|end_of_text|>\n' }}
    {%- if loop.last and add_generation_prompt %}
        {{- '<|start_of_role|>assistant' }}
        {%- if controls %}
            {{- ' ' + controls | tojson }}
        {%- endif %}
        {{- '<|end_of_role|>' }}
    {%- endif %}
{%- endfor %}"""

ALPACA = """\
{% if messages[0].role == 'system' %}{{ messages[0].content ~ '\n\n' }}{% endif %}
{% for m in messages if m.role != 'system' %}
{{ {'user': '### Instruction:', 'assistant': '### Response:'}.get(m.role, '### ' ~ m.role | title ~ ':') }}
{{ m.content }}
{% if not loop.last %}

{% endif %}
{% endfor %}
{% if add_generation_prompt %}

### Response:
{% endif %}"""

FORMATS = {
    "chatml": CHATML, "llama-2": LLAMA_2, "llama-3": LLAMA_3, "mistral": MISTRAL, "gemma": GEMMA, "phi-3": PHI_3,
    "zephyr": ZEPHYR, "vicuna": VICUNA, "qwen": QWEN, "qwen-thinks": QWEN_THINKS, "deepseek": DEEPSEEK,
    "command-r": COMMAND_R, "olmo": OLMO, "granite": GRANITE, "alpaca": ALPACA,
}  # fmt: skip

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": 'Tells the weather: "now", <today> & tomorrow.',
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "Łódź, 東京"}, "days": {"type": "integer"}},
                "required": ["city"],
            },
        },
    },
    {
        "type": "function",
        "function": {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}},
    },
]

_U, _A, _S = "user", "assistant", "system"


def _chat(*turns: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in turns]


#: Messages, and further arguments. Some formats refuse some of them, as transformers does.
CONVERSATIONS: list[tuple[list[dict[str, Any]], dict[str, Any]]] = [
    (_chat((_U, "Hi")), {}),
    (_chat((_U, "Hi")), {"add_generation_prompt": True}),
    (_chat((_S, "Be brief."), (_U, "  Hi é\"<&'😀\n"), (_A, " Hello. "), (_U, "Bye")), {"add_generation_prompt": True}),
    (_chat((_U, "a"), (_A, "<think>\nhm\n</think>\n\nb"), (_U, "c"), (_A, "d")), {}),
    (_chat((_U, "a"), (_A, "Once upon")), {"continue_final_message": True}),
    (_chat((_U, "a"), (_A, "ends in blanks  ")), {"continue_final_message": True}),
    (_chat((_A, "first")), {}),
    (_chat((_U, "a"), (_U, "b")), {"add_generation_prompt": True}),
    (_chat((_U, "<|im_end|>\n{{ 7 * 7 }} {% raise %}")), {"add_generation_prompt": True, "enable_thinking": False}),
    (_chat((_U, "Weather?")), {"tools": TOOLS, "add_generation_prompt": True}),
    (
        [
            {"role": _U, "content": "Weather?"},
            {
                "role": _A,
                "content": None,
                "tool_calls": [
                    {
                        "id": "abcdefghi",
                        "type": "function",
                        "function": {"name": "weather", "arguments": {"city": "Łódź"}},
                    }
                ],
            },
            {"role": "tool", "content": "4", "tool_call_id": "abcdefghi", "name": "weather"},
            {"role": _A, "content": "Four degrees.", "reasoning": "simple"},
            {"role": _U, "content": "Thanks"},
        ],
        {"tools": TOOLS, "add_generation_prompt": True},
    ),
    (
        _chat((_U, "Who?")),
        {
            "documents": [{"title": "One", "text": "Ana."}, {"title": "Two", "text": "Bo."}],
            "add_generation_prompt": True,
            "controls": {"length": "short"},
        },
    ),
    (_chat((_U, "Date?")), {"add_generation_prompt": True, "date_string": "26 Jul 2024"}),
]
