"""What `inspect` was asked for, and which options go together; checked before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clipft.config.hints import nearest
from clipft.errors import InputError
from clipft.report.topic_names import TOPICS


@dataclass(frozen=True)
class Asked:
    """The options of `inspect` as they were typed."""

    model: str | None
    config: Path | None
    overrides: tuple[str, ...]
    pretrained: str | None
    walkthrough: bool
    image: str | None
    text: str | None
    tree: bool
    full: bool
    block: int | None
    compare: str | None
    explain: str | None
    prompts: Path | None

    @property
    def needs_weights(self) -> bool:
        """Whether values are shown, or weights are named."""
        return self.pretrained is not None or (self.image is not None and self.text is not None)

    def check(self) -> None:
        """Refuse options that do not go together, and a topic that is none.

        Raises:
            InputError: with the sentence of the first rule that is broken.
        """
        for broken, sentence in self._rules():
            if broken:
                raise InputError(sentence)
        if self.explain is not None and self.explain not in TOPICS:
            close = nearest(self.explain, TOPICS)
            hint = f"did you mean {close[0]}? " if close else ""
            raise InputError(f"--explain: {self.explain} is no topic; {hint}The topics are {', '.join(TOPICS)}")

    def _rules(self) -> tuple[tuple[bool, str], ...]:
        weights, pair = self.pretrained is not None, self.image is not None and self.text is not None
        run = self.prompts is not None
        model, config, block = self.model is not None, self.config is not None, self.block is not None
        return (
            (run and (model or config or weights), "--prompts: names a run, which brings its model; give it alone"),
            (
                run and (self.walkthrough or self.tree or self.compare is not None or self.explain is not None),
                "--prompts: is a view of its own; for another give --config CONFIG",
            ),
            (model == config and not run, "inspect: give --model NAME, such as ViT-B-32, or --config CONFIG"),
            (bool(self.overrides) and not config, "--set: changes a config; name it by --config"),
            (weights and config, "--pretrained: with --config write --set model.pretrained=..."),
            (
                self.image is not None and self.text is None,
                "--image: needs a text to meet; add --text 'a photo of a dog'",
            ),
            (self.text is not None and self.image is None, "--text: needs an image to meet; add --image FILE"),
            (pair and not self.walkthrough, "--image and --text: a walkthrough shows their values; add --walkthrough"),
            (self.full and not self.tree, "--full: is a way to show the tree; add --tree"),
            (block and not self.tree, "--block: is a part of the tree; add --tree"),
            (self.full and block, "--full and --block: every module, or one block; give one of them"),
            (
                self.compare is not None and (weights or pair),
                "--compare: looks at no weights; leave out --pretrained, --image",
            ),
        )
