"""Final numbers: the number that a worked solution ends with, held against the gold one."""

from collections.abc import Sequence
from decimal import Decimal

from moe_ray.domains.example import Example
from moe_ray.domains.texts import final_number
from moe_ray.scoring.samples import TextGrader, UnscorableError
from moe_ray.scoring.score import Metric


class FinalNumberGrader(TextGrader):
    """Whether the final number is exactly the gold one (72 is 72.0). An example's `grading` holds `number`.

    An answer without a number is wrong, and is counted by `number_given`.
    """

    def __init__(self, num_samples: int = 1) -> None:
        super().__init__(num_samples)
        single = num_samples == 1
        mean = "" if single else f"; mean over {num_samples} samples"
        self.metrics: tuple[Metric, ...] = (
            Metric(
                name="final_number",
                definition="share of answers whose final number (after the last ####, else the last of all) is exactly "
                f"the gold one; none is wrong{mean}",
                binary=single,
            ),
            Metric(name="number_given", definition=f"share of answers with a number{mean}", binary=single),
        )

    def measure(self, example: Example, text: str) -> Sequence[float]:
        """Return the values of final_number and number_given."""
        gold = example.grading.get("number")
        if not isinstance(gold, str):
            raise UnscorableError("the example has no number")
        number = final_number(text)
        return float(number == Decimal(gold)), float(number is not None)
