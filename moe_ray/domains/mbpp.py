"""MBPP: short programming tasks with tests. The full set and the sanitized one both load.

The completion prompt is the published one: three solved tasks (ids 2, 3 and 4), then the task with all its
tests, between [BEGIN] and [DONE]. The test split does not hold the three: they are taken from the data when they are
there, else from the local file `settings.shots_file` or the hub split `settings.shots_split` ("prompt"); else the
prompt has none. The domain's notes say which. A shot is never evaluated. The chat prompt asks for a fenced code
block and has no shots.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar

from moe_ray.config.schema import DomainConfig, is_local_path
from moe_ray.domains.code_examples import CHAT, CodeRecordTask
from moe_ray.domains.example import Example, Record
from moe_ray.domains.sources import read_file, read_source
from moe_ray.errors import ConfigError, DataError
from moe_ray.prompts.messages import as_text

SHOT_IDS = ("2", "3", "4")

VALUES = ("question", "tests")

COMPLETION = """\
You are an expert Python programmer, and here is your task: {question} Your code should pass these tests:

{tests}
[BEGIN]
"""


class MBPP(CodeRecordTask):
    """MBPP. Templates may name {question} and {tests}; a completion template of one's own gets no shots."""

    default_graders = ("code", "bits_per_byte")
    chat_default = CHAT
    completion_default = COMPLETION
    roles: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "id": ("task_id", "id"),
        "question": ("text", "prompt"),
        "reference": ("code",),
        "tests": ("test_list",),
        "setup": ("test_setup_code",),
        "test_imports": ("test_imports",),
    }
    known_settings: ClassVar[frozenset[str]] = frozenset({"shots_file", "shots_split"})

    def __init__(self, name: str, config: DomainConfig) -> None:
        super().__init__(name, config)
        self._chat = self.template("template", self.chat_default, VALUES)
        self._completion = self.template("completion_template", self.completion_default, VALUES)
        self._shots: list[Record] = []
        self._shots_are_data = False
        self._prefix = ""

    def candidates(self, records: Iterable[Record]) -> Iterable[tuple[str, Record]]:
        """Yield (id, record) for every task that is not a shot of the prompt."""
        kept = list(records)
        self._choose_shots(kept)
        for example_id, record in super().candidates(kept):
            if self._shots and example_id in SHOT_IDS:
                self.skipped["a solved task of the prompt"] += 1
            else:
                yield example_id, record

    def supporting_records(self) -> list[Record]:
        """Return the shots that came from the data itself."""
        return self._shots if self._shots_are_data else []

    def example(self, example_id: str, record: Record) -> Example:
        """Turn one task into its example."""
        asked = self.code_values(record)
        return self.code_example(
            example_id,
            record,
            chat=self._chat.render(asked),
            completion=self._prefix + self._completion.render(asked),
            stop=("[DONE]",),
        )

    def _choose_shots(self, records: list[Record]) -> None:
        """Find the solved tasks and say in the notes which prompt this is."""
        if self.config.prompt.completion_template is not None:
            self.notes.append("completion prompt: the template of the experiment file")
            return
        self._shots, place = self._shots_among(records), "the data"
        self._shots_are_data = bool(self._shots)
        if not self._shots and self.config.settings:
            self._shots, place = self._shots_of_settings()
        self._prefix = "".join(self._solved(shot) for shot in self._shots)
        ids = ", ".join(SHOT_IDS)
        self.notes.append(
            f"completion prompt: 3-shot (tasks {ids} of {place})"
            if self._shots
            else f"completion prompt: zero-shot (tasks {ids} are not in the data; no shots_file or shots_split is set)"
        )

    def _shots_of_settings(self) -> tuple[list[Record], str]:
        """Return the solved tasks of `shots_file` or `shots_split`, and the name of that place."""
        settings = self.config.settings
        if "shots_file" in settings:
            place = str(settings["shots_file"])
            return self._require_shots(read_file(Path(place)), place), place
        if is_local_path(self.config.data.source):
            raise ConfigError(
                "shots_split names a split of a hub data set, and data.source is a local file",
                where=self.where("settings.shots_split"),
                remedy="name the local file that holds the shots: settings: {shots_file: ./FILE.jsonl}",
            )
        data = self.config.data.model_copy(update={"split": str(settings["shots_split"])})
        return self._require_shots(read_source(data, Path()).records, f"split {data.split}"), f"split {data.split}"

    def _shots_among(self, records: Iterable[Record]) -> list[Record]:
        """Return the three solved tasks in their order, or none when one is missing."""
        found = {self.record_id(record): record for record in records}
        return [found[shot] for shot in SHOT_IDS] if all(shot in found for shot in SHOT_IDS) else []

    def _require_shots(self, records: list[Record], place: str) -> list[Record]:
        shots = self._shots_among(records)
        if not shots:
            raise DataError(
                f"does not hold the tasks {', '.join(SHOT_IDS)}",
                where=place,
                remedy="name a file or a split that holds the prompt tasks of MBPP (ids 1 to 10)",
            )
        return shots

    def _solved(self, shot: Record) -> str:
        asked = self._completion.render(self.code_values(shot))
        solution = as_text(self.value(shot, "reference")).strip("\n")
        return f"{asked}{solution}\n[DONE]\n\n"
