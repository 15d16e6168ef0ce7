"""Markers of prompts that have no completion yet, found on the fly, to pin them before decoding.

An annotator sees what a category describes. Where that is the prompt, it sees what it would see in
a row; where it is the completion, only those are asked that can tell what a prompt wants (TELLERS):
the language that it is written in, or what a language model takes for the best answer.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from marker_lm.annotate.registry import (
    MODULES,
    AnnotateError,
    Step,
    choose,
    make_annotator,
    make_steps,
)
from marker_lm.data.example import Example
from marker_lm.markers.taxonomy import Taxonomy

TELLERS = ("lang", "llm")  # they have `tag_all`


class PromptTagger:
    """Annotators at work on prompts.

    Args:
      annotators: the name of one, for all that it can fill; or the sections of a config of
        annotation as a plain mapping (configs/annotate.py). Its files, taxonomy and row format are
        not looked at.
      taxonomy: of the model.
      levers: the categories that the model writes; no others are filled.

    Attributes:
      categories: those that are filled.
      notes: what is left out and why, a sentence each.

    Raises AnnotateError where nothing can be told of a prompt, and what annotators raise for their
    sections.
    """

    def __init__(
        self,
        annotators: str | Mapping[str, Any],
        taxonomy: Taxonomy,
        levers: Collection[str],
    ):
        def possible(category: str, name: str) -> bool:
            described = taxonomy.categories[category].describes
            return category in levers and (name in TELLERS or described == "prompt")

        if isinstance(annotators, str):
            made = make_annotator(annotators, {}, taxonomy)
            told = tuple(c for c in made.categories if possible(c, annotators))
            steps = [Step(annotators, made, told)] if told else []
        else:
            chosen = choose(taxonomy, annotators.get("annotators"))
            sections = {name: annotators.get(name, {}) for name in MODULES}
            names = {c: tuple(n for n in asked if possible(c, n)) for c, asked in chosen.items()}
            steps = make_steps(names, sections, taxonomy)
        learners = sorted({step.name for step in steps if step.learns})
        self.notes = tuple(
            f"the annotator '{name}' must learn from rows first and is left out; load a saved one"
            for name in learners
        )
        self.steps = [step for step in steps if not step.learns]
        filled = {category for step in self.steps for category in step.categories}
        self.categories = tuple(c for c in taxonomy.categories if c in filled)
        if not self.categories:
            asked = f"'{annotators}'" if isinstance(annotators, str) else "the config"
            raise AnnotateError(
                f"of a prompt without a completion, {asked} can tell none of the model's levers; "
                f"{' '.join(self.notes) or 'choose lang, llm, or one for what describes prompts'}"
            )

    def tag(
        self, prompts: Sequence[str], known: Sequence[Collection[str]]
    ) -> list[dict[str, tuple[Any, str, float]]]:
        """Category -> (value, annotator, confidence) of each prompt, in its order.

        Args:
          prompts: texts.
          known: categories of each that need no annotator.
        """
        examples = [
            Example("", prompt, "", dict.fromkeys(categories), {})
            for prompt, categories in zip(prompts, known, strict=True)
        ]
        tags: list[dict[str, tuple[Any, str, float]]] = [{} for _ in prompts]
        for step in self.steps:
            lacking = [
                (example, tag)
                for example, tag in zip(examples, tags, strict=True)
                if any(c not in example.markers for c in step.categories)
            ]
            find = getattr(step.annotator, "tag_all", step.annotator.annotate)
            found = find([example for example, _ in lacking])
            for (example, tag), own in zip(lacking, found, strict=True):
                for category in step.categories:
                    if category in own and category not in example.markers:
                        value, confidence = own[category].value, own[category].confidence
                        example.markers[category] = value
                        tag[category] = (value, step.name, confidence)
        return tags

    def close(self) -> None:
        """Closes what annotators have open, such as connections."""
        for step in self.steps:
            if hasattr(step.annotator, "close"):
                step.annotator.close()
