"""What else could the engine have rendered? Other arguments, other templates, a system message more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from parity.prompt.conversation import Conversation, contents, tool_names
from parity.prompt.evidence import Candidate, Prompted
from parity.prompt.families import FAMILIES
from parity.prompt.folder import CONFIG_FILE, ModelFolder, Template
from parity.prompt.record import Explanation
from parity.prompt.render import Inspection, Job, render_jobs
from parity.prompt.settings import LIMIT, NOT_CHOSEN, Setting, settings
from parity.prompt.tooling import described_tools
from parity.prompt.turns import judge_system
from parity.prompt.vocabulary import Vocabulary

MARK = "\u2402system\u2403"
"""Stands for the content of a system message that is not known yet: control pictures, which no prompt holds."""

UNPRIMED = "assistant_priming_missing"


@dataclass(frozen=True)
class Rendered:
    """The reference under one setting."""

    setting: Setting
    prompt: Prompted


@dataclass(frozen=True)
class Search:
    """A prompt that is not the template's, and where to look for what it is."""

    folder: ModelFolder
    template: Template
    vocabulary: Vocabulary
    conversation: Conversation
    sut: Prompted

    def run(self, inspection: Inspection, formats: Sequence[str]) -> tuple[list[Rendered], tuple[Candidate, ...], bool]:
        """The reference under every setting that gives ids of its own; what else may have been rendered; and whether
        all settings were tried. One child process renders it all."""
        asked = self.conversation.arguments
        every = list(islice(settings(inspection, asked, text=self.sut.text, formats=formats), LIMIT + 1))
        varied = [setting for setting in every[:LIMIT] if setting.count]
        others = list(self._others())
        marked = replace(self.conversation, messages=({"role": "system", "content": MARK}, *self.conversation.messages))
        jobs = [job_for(self.folder, self.template, self.conversation, setting) for setting in varied]
        jobs += [job for job, _ in others] + [job_for(self.folder, self.template, marked)]
        answers, _ = render_jobs(jobs)
        texts = [one.text for one in answers]
        for at in range(len(varied), len(texts) - 1):
            if not self._may_be_fed(texts[at]):
                texts[at] = None
        prompts = {text: encoded(self.vocabulary, text) for text in dict.fromkeys(texts[:-1]) if text is not None}
        found: dict[tuple[int, ...], Rendered] = {}
        for setting, text in zip(varied, texts, strict=False):
            if text is not None:
                found.setdefault(prompts[text].ids, Rendered(setting, prompts[text]))
        candidates = [
            Candidate(said.name, said.sentence, prompts[text], said.evidence, own=job.template == self.template.text)
            for (job, said), text in zip(others, texts[len(varied) : -1], strict=True)
            if text is not None
        ]
        candidates += self._system(texts[-1])
        return list(found.values()), tuple(candidates), len(every) <= LIMIT

    def _others(self) -> Iterator[tuple[Job, Explanation]]:
        """Renderings that are not the caller's to choose, each with the explanation if it was fed."""
        conversation, template, folder = self.conversation, self.template, self.folder
        primed = bool(conversation.arguments.get("add_generation_prompt", conversation.asks))
        name = UNPRIMED if primed else "assistant_priming_extra"
        said = f"The SUT's ids are the template's with add_generation_prompt={not primed}."
        yield self._job(template, add_generation_prompt=not primed), Explanation(name, said)
        for asked in conversation.arguments:
            if asked not in NOT_CHOSEN:
                left = {name: value for name, value in conversation.arguments.items() if name != asked}
                said = f"The SUT's ids are the template's without {asked}, which was asked for."
                job = job_for(folder, template, replace(conversation, arguments=left))
                yield job, Explanation("setting_not_applied", said, evidence={"argument": asked})
        if conversation.tools:
            said = "The SUT's ids are the template's without the tools."
            yield self._job(template, tools=None), Explanation("tools_missing", said)
        else:
            recovered = described_tools(self.sut.text)
            said = "The SUT's ids are the template's with tools that the conversation does not give."
            if recovered:
                yield self._job(template, tools=recovered), Explanation("tools_added", said)
        if conversation.messages[0]["role"] == "system" and len(conversation.messages) > 1:
            rest = replace(conversation, messages=conversation.messages[1:])
            said = "The SUT's ids are the template's without the system message that was given."
            yield job_for(folder, template, rest), Explanation("system_message_missing", said)
        overruled = "template_file_ignored" if folder.from_file else "other_template"
        for other in (*folder.templates.values(), *folder.ignored.values()):
            if other.text != template.text:
                name = overruled if other.source == CONFIG_FILE else "other_template"
                said = (
                    f"The SUT's ids are those of the template {other.name} in {other.source}, not of {template.source}."
                )
                yield self._job(other), Explanation(name, said, evidence={"template": other.source})
        for family, text in FAMILIES.items():
            name = "other_template" if folder.ignored else overruled
            said = f"The SUT's ids are those of a generic template ({family}); {template.source} was not used."
            yield self._job(Template(family, "", text)), Explanation(name, said, evidence={"template": family})

    def _may_be_fed(self, text: str | None) -> bool:
        """False for a long text that begins otherwise than the SUT's prompt: encoding it would tell no more."""
        bos = self.vocabulary.number(self.folder.special.get("bos_token"))
        return text is not None and self.vocabulary.may_begin(text, self.sut.ids, but_for=bos)

    def _job(self, template: Template, **changed: Any) -> Job:
        return job_for(self.folder, template, self.conversation, **changed)

    def _system(self, marked: str | None) -> list[Candidate]:
        """The template's prompt of the conversation with a system message before it, whose content is what the SUT has
        in the place of MARK."""
        before, mark, after = (marked or "").partition(MARK)
        text = self.sut.text
        fits = text.startswith(before) and text.endswith(after) and len(before) + len(after) <= len(text)
        if not mark or MARK in after or not fits:
            return []
        content = text[len(before) : len(text) - len(after)]
        names = {*tool_names(self.conversation.tools), *tool_names(described_tools(content))}
        if any(name in content for name in names) or content.strip() in contents(self.conversation.messages):
            return []  # what it says is told by the rules for tools and messages
        if content.strip() in self.vocabulary.control.values():
            return []  # a special token where a template without delimiters would have the message
        said = judge_system(content)
        return [Candidate(said.name, said.sentence, encoded(self.vocabulary, before + content + after), own=True)]


def job_for(
    folder: ModelFolder, template: Template, conversation: Conversation, setting: Setting | None = None, **changed: Any
) -> Job:
    """The rendering of a conversation by a template of the folder; `changed` are variables besides the setting's."""
    setting = setting or Setting({})
    return Job(template.text, conversation.variables(folder.special, **setting.changed, **changed), setting.now)


def encoded(vocabulary: Vocabulary, text: str) -> Prompted:
    """The ids of `text`, and the text of those ids."""
    ids = vocabulary.encode(text)
    return Prompted(ids, vocabulary.text(ids))
