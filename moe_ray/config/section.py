"""What all sections of an experiment file have in common."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Section(BaseModel):
    """Base of all sections: unknown keys are refused, and a loaded experiment does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
