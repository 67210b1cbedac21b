"""What a recipe may say: one table of names, types and ranges.

Arguments have the names, and mostly the defaults, of the Python calls they
are handed to. pydantic checks them, and prints them as a JSON schema.
"""

from typing import Annotated
from typing import Any
from typing import Literal

import pydantic
from pydantic import Field

__all__ = ["VERBS", "Arguments", "Recipe", "Step", "Training"]


def _number(value: Any) -> Any:
    """Reads "1e-3", which YAML 1.1 takes for a text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


Real = Annotated[float, pydantic.BeforeValidator(_number)]
Scheme = Literal[
    "int8",
    "int8_iot",
    "dynamic_int8",
    "int4",
    "int4_block32",
    "int2",
    "codebook",
    "power_of_two",
    "additive_power_of_two",
    "normal_float4",
]
Criterion = Literal[
    "magnitude",
    "wanda",
    "apoz",
    "mean_activation",
    "taylor",
    "snip",
    "movement",
]


class Arguments(pydantic.BaseModel):
    """A table of a recipe: unknown names are refused, types as written."""

    model_config = pydantic.ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False
    )


class Training(Arguments):
    """How a step trains, as for Keras's `fit`."""

    epochs: int = Field(1, ge=1)
    batch_size: int = Field(32, ge=1)
    optimizer: str = "adam"
    learning_rate: Real | None = Field(None, gt=0)


class Fit(Training):
    """Trains the model on the labels."""


class Distil(Training):
    """Trains the model, or a `student` from a file, by `kdtf.Distiller`.

    The teacher is the recipe's `model`, or another file.
    """

    student: str | None = None
    teacher: str | None = None
    alpha: Real = Field(0.1, ge=0, le=1)
    temperature: Real = Field(4.0, gt=0)
    soft_loss: Literal[
        "kl",
        "reverse_kl",
        "jensen_shannon",
        "mse",
        "dkd",
        "dist",
        "skew_kl",
        "skew_reverse_kl",
        "tvd",
        "uld",
    ] = "kl"
    head: Literal["auto", "softmax", "sigmoid"] = "auto"
    outputs: Literal["auto", "logits", "probabilities"] = "auto"
    chunk: int | None = Field(None, ge=1)


class Shrink(Arguments):
    """Removes channels, units, heads and blocks by `kdtf.shrink`."""

    keep: Real = Field(0.5, gt=0, le=1)
    by: Literal["parameters", "macs", "bytes", "latency"] = "parameters"
    criterion: Criterion = "magnitude"
    what: list[Literal["width", "heads", "depth", "hidden"]] = Field(
        ["width", "heads"], min_length=1
    )
    allocation: Literal["global", "uniform"] = "global"
    round_to: int = Field(8, ge=1)


class Prune(Training):
    """Sets weights to 0 by `kdtf.prune`, and trains the others.

    Without `schedule` at once; with one little by little, until `end_step`:
    by default two thirds of the step's own training.
    """

    epochs: int = Field(0, ge=0)
    sparsity: Real | None = Field(None, ge=0, lt=1)
    schedule: Literal["polynomial", "cosine"] | None = None
    begin_step: int = Field(0, ge=0)
    end_step: int | None = Field(None, ge=1)
    criterion: Criterion = "magnitude"
    structure: str | list[int] | None = None
    allocation: str | dict[str, Real] = "uniform"
    select: list[str] | None = None
    frequency: int = Field(100, ge=1)


class QuantizeAware(Training):
    """Trains with quantized values by `kdtf.quantize_aware`.

    With 0 epochs it leaves the training to the next `distil` or `fit`.
    """

    epochs: int = Field(1, ge=0)
    learning_rate: Real | None = Field(1e-4, gt=0)
    scheme: Scheme | dict[str, Scheme | None] = "int8"
    select: list[str] | None = None


class Quantize(Arguments):
    """Quantizes without training by `kdtf.quantize`."""

    scheme: Scheme | dict[str, Scheme | None] = "int8"
    method: Literal["nearest", "gptq", "awq", "awq+gptq"] = "nearest"
    select: list[str] | None = None


class Cluster(Training):
    """Lets weights share a few values by `kdtf.cluster`."""

    epochs: int = Field(0, ge=0)
    num_clusters: int = Field(16, ge=2, le=256)
    initialization: Literal["linear", "density", "kmeans++"] = "kmeans++"
    preserve_sparsity: bool = False
    select: list[str] | None = None


class Strip(Arguments):
    """Bakes zeros and grids into a plain Keras model by `kdtf.strip`."""


class Export(Arguments):
    """Writes a verified `.tflite` file by `kdtf.export_tflite`."""

    file: str
    target: Literal["android", "iot", "float"] = "android"
    quantize: (
        Literal[
            "float16",
            "dynamic_int8",
            "int8",
            "int4",
            "int4_block32",
            "int4_block64",
            "int4_block128",
            "int4_block256",
        ]
        | None
    ) = None
    sparse: bool = False


class Compare(Arguments):
    """Compares the first model, the last and all files by `kdtf.compare`.

    Of a last model that carries masks or grids only its files, if there are.
    """

    html: str | None = None
    # `json` is a method of pydantic's models.
    json_file: str | None = Field(None, alias="json")
    latency_runs: int = Field(50, ge=0)
    num_threads: int = Field(1, ge=1)


class Step(Arguments):
    """One step: a verb, and its arguments."""

    model_config = pydantic.ConfigDict(
        json_schema_extra={"minProperties": 1, "maxProperties": 1}
    )

    fit: Fit | None = None
    distil: Distil | None = None
    shrink: Shrink | None = None
    prune: Prune | None = None
    quantize_aware: QuantizeAware | None = None
    quantize: Quantize | None = None
    cluster: Cluster | None = None
    strip: Strip | None = None
    export: Export | None = None
    compare: Compare | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _with_arguments(cls, value: Any) -> Any:
        """Takes a verb without arguments, as text or before nothing."""
        if isinstance(value, str):
            return {value: {}}
        if isinstance(value, dict):
            return {k: {} if v is None else v for k, v in value.items()}
        return value

    @pydantic.model_validator(mode="after")
    def _is_one(self) -> "Step":
        if len(self.model_fields_set) != 1:
            raise ValueError("a step has one verb; begin each with a dash")
        return self

    @property
    def verb(self) -> str:
        """What is done."""
        (verb,) = self.model_fields_set
        return verb

    @property
    def arguments(self) -> Any:
        """How."""
        return getattr(self, self.verb)

    def described(self) -> dict[str, Any]:
        """Gives the step with all its settings, defaults too, as JSON has it.

        Example:
            >>> Step(strip=Strip()).described()
            {'strip': {}}
        """
        return {self.verb: self.arguments.model_dump(by_alias=True)}

    def __str__(self) -> str:
        """Says what the recipe says."""
        given = self.arguments.model_dump(exclude_unset=True, by_alias=True)
        said = ", ".join(f"{name}={value}" for name, value in given.items())
        return f"{self.verb} {said}".rstrip()


class Data(Arguments):
    """Arrays in `.npz` files: `x` or one for each input's name, and `y`.

    `validation` is a file, or the share of `train` that is kept from it.
    """

    train: str
    validation: str | Annotated[Real, Field(gt=0, lt=1)] = 0.1


class Recipe(Arguments):
    """A model, data, and what is done, in order.

    Files are found from the recipe's own folder.
    """

    model: str
    data: Data
    steps: list[Step] = Field(min_length=1)
    loss: str | None = None
    metrics: list[str] = []
    seed: int = Field(0, ge=0, lt=2**31)
    out: str = "out"
    tensorboard: bool = False


VERBS: tuple[str, ...] = tuple(Step.model_fields)
