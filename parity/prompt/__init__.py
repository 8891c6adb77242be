"""What an engine feeds the model against what the checkpoint's own chat template makes of the conversation.

    conversation = read_conversation(Path("messages.json"))
    found = compare_prompts("fixtures/models/moe-tiny", conversation, read_fed(Path("ids.json")))
    found.same, found.settings, found.explanation        # (False, {}, 'assistant_priming_missing')
    print("\\n".join(report_lines(found)))               # what to paste into a report

Every comparison on the same ids agrees, however wrong the ids are: the prompt is the first thing to look at. Needs no
weights and no GPU; needs the `tokenizers` library. Templates run in a sandboxed child process with limits.
"""

from __future__ import annotations

from parity.prompt.compare import compare_prompts, render_prompt, show_template
from parity.prompt.conversation import Conversation, read_conversation
from parity.prompt.fed import FedPrompt, fed_by_runner, fed_from_json, fed_in_trace, read_fed
from parity.prompt.folder import ModelFolder, Template, read_folder
from parity.prompt.names import NAMES
from parity.prompt.record import Difference, Explanation, PromptComparison
from parity.prompt.show import diff_lines, report_lines

__all__ = [
    "NAMES",
    "Conversation",
    "Difference",
    "Explanation",
    "FedPrompt",
    "ModelFolder",
    "PromptComparison",
    "Template",
    "compare_prompts",
    "diff_lines",
    "fed_by_runner",
    "fed_from_json",
    "fed_in_trace",
    "read_conversation",
    "read_fed",
    "read_folder",
    "render_prompt",
    "report_lines",
    "show_template",
]
