"""Chat templates in the styles of the families in use, written for these tests."""

from __future__ import annotations

CHATML_THINKING = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- '# Tools\\n<tools>' }}
    {%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}
    {{- '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages if message.role != 'system' %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.reasoning_content is string %}
        {{- '<think>\\n' + message.reasoning_content.strip('\\n') + '\\n</think>\\n\\n' }}
    {%- endif %}
    {{- message.content or '' }}
    {%- for call in message.tool_calls or [] %}
        {{- '<tool_call>\\n' + (call.function | tojson(indent=1)) + '\\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}
"""

HEADERS_WITH_DATE = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") %}
{%- endif %}
{%- set first = '' %}
{%- set turns = messages %}
{%- if messages[0].role == 'system' %}
    {%- set first = messages[0].content | trim %}
    {%- set turns = messages[1:] %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{{- 'Cutting Knowledge Date: December 2023\\nToday Date: ' + date_string + '\\n\\n' + first + '<|eot_id|>' }}
{%- for message in turns %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
"""

INST = """\
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate user and assistant') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {%- if loop.last and system is defined %}
            {{- '[INST] ' + system + '\\n\\n' + message['content'] + ' [/INST]' }}
        {%- else %}
            {{- '[INST] ' + message['content'] + ' [/INST]' }}
        {%- endif %}
    {%- else %}
        {{- ' ' + message['content'] + eos_token }}
    {%- endif %}
{%- endfor %}
"""

NO_SYSTEM = """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{% for message in messages %}
{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{ '<start_of_turn>' + role + '
' + message['content'] | trim + '<end_of_turn>
' }}
{% endfor %}
{% if add_generation_prompt %}{{'<start_of_turn>model
'}}{% endif %}
"""

THINK_PRIMED = """\
{% if not thinking is defined %}{% set thinking = true %}{% endif %}
{% set ns = namespace(system='') %}
{%- for message in messages %}{%- if message.role == 'system' %}{% set ns.system = message.content %}{%- endif %}
{%- endfor %}
{{- bos_token }}{{- ns.system }}
{%- for message in messages %}
{%- if message.role == 'user' %}{{- '<|User|>' + message.content }}{%- endif %}
{%- if message.role == 'assistant' %}
{%- set said = message.content.split('</think>')[-1] if '</think>' in message.content else message.content %}
{{- '<|Assistant|>' + said + eos_token }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|Assistant|>' }}
{%- if thinking %}{{- '<think>\\n' }}{% else %}{{- '</think>' }}{% endif %}
{%- endif %}
"""

CHANNELS = """\
{%- macro listed(tools) %}
{%- for tool in tools %}
{{- '// ' + tool.function.description + '\\ntype ' + tool.function.name + ' = (_: {' }}
{%- for name, schema in tool.function.parameters.properties.items() %}
{{- '\\n' + name + ': ' + schema.type + ',' }}
{%- endfor %}
{{- '\\n}) => any;\\n' }}
{%- endfor %}
{%- endmacro %}
{%- if reasoning_effort is not defined %}{%- set reasoning_effort = "medium" %}{%- endif %}
{{- '<|start|>system<|message|>Current date: ' + strftime_now("%Y-%m-%d") + '\\nReasoning: ' + reasoning_effort }}
{{- '\\n# Valid channels: analysis, final.<|end|>' }}
{%- if tools %}{{- '<|start|>developer<|message|># Tools\\n' + listed(tools) + '<|end|>' }}{%- endif %}
{%- for message in messages %}
{%- if message.role == 'assistant' %}
{%- if message.thinking %}
{{- '<|start|>assistant<|channel|>analysis<|message|>' + message.thinking + '<|end|>' }}
{%- endif %}
{% generation %}{{- '<|start|>assistant<|channel|>final<|message|>' + message.content + '<|end|>' }}{% endgeneration %}
{%- elif message.role == 'tool' %}
{%- continue %}
{%- else %}
{{- '<|start|>' + message.role + '<|message|>' + message.content + '<|end|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{%- endif %}
"""

XML_TOOLS = """\
{%- for message in messages %}
{%- if loop.first and tools %}
<s>system
{{ (messages[0].content if messages[0].role == 'system' else 'You may call functions.') }}
{%- for tool in tools %}

<function name="{{ tool.function.name }}">{{ tool.function.parameters | tojson(indent=2, sort_keys=true) }}</function>
{%- endfor %}
</s>
{%- elif message.role == 'system' %}
<s>system
{{ message.content }}</s>
{%- endif %}
{%- if message.role != 'system' %}
<s>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}
{%- for part in message.content %}{{ part.text if part.type == 'text' else '<image>' }}{% endfor %}
{%- endif %}</s>
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
<s>assistant
{% endif %}
"""

PLAIN_ROLES = """\
{% for m in messages %}{{ m.role | upper }}: {{ m.content }}
{% if m.role == 'assistant' %}{{ eos_token }}{% break %}{% endif %}{% endfor %}
{% if add_generation_prompt %}ASSISTANT:{% endif %}"""

STYLES = {
    "chatml_thinking": CHATML_THINKING,
    "headers_with_date": HEADERS_WITH_DATE,
    "inst": INST,
    "no_system": NO_SYSTEM,
    "think_primed": THINK_PRIMED,
    "channels": CHANNELS,
    "xml_tools": XML_TOOLS,
    "plain_roles": PLAIN_ROLES,
}
