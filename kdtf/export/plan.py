"""What a model and its user want of the file, brought together."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from kdtf.export.mixed import coarsest_mode
from kdtf.export.mixed import mixed_kernels
from kdtf.export.targets import MODES
from kdtf.export.targets import Mode
from kdtf.export.targets import Target
from kdtf.export.targets import get_mode
from kdtf.flavours import flavour_of
from kdtf.transforms.deployment import Deployment
from kdtf.transforms.deployment import KernelGrid


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """How a file is made.

    Args:
        target: The device it is for.
        mode: How it is quantized.
        deployment: What the model was quantized for; None if it was not.
        kernels: How each kernel is stored, where they differ; else None.
    """

    target: Target
    mode: str | None
    deployment: Deployment | None = None
    kernels: tuple[KernelGrid, ...] | None = None

    @property
    def has_ranges(self) -> bool:
        """Whether activations' int8 ranges are in the model's graph."""
        return self.deployment is not None and self.mode == "int8"

    @property
    def dense_per_tensor(self) -> bool:
        """Whether an int8 Dense kernel has one scale in all."""
        if self.deployment is None:
            return self.target.dense_per_tensor
        return self.deployment.dense_per_tensor

    @property
    def grids(self) -> tuple[KernelGrid, ...]:
        """The kernels whose values the file must keep."""
        return () if self.deployment is None else self.deployment.grids

    @property
    def limits(self) -> Mode:
        """What the mode's file must keep; more if the model simulated it."""
        limits = MODES[self.mode]
        if self.deployment is None:
            return limits
        return dataclasses.replace(
            limits,
            min_sqnr_db=limits.simulated_sqnr_db[0],
            good_sqnr_db=limits.simulated_sqnr_db[1],
        )


def plan_of(
    model: Any,
    *,
    target: Target,
    quantize: str | Mapping[Any, str | None] | None,
    deployment: Deployment | None,
) -> Plan:
    """Returns how to make the file of `model`.

    Args:
        model: A model of either Keras.
        target: The device.
        quantize: What the user asked for.
        deployment: What the model was quantized for, or None.

    Raises:
        ValueError: The user or the target wants another form, or the model
            has no ranges yet.
    """
    if deployment is None and _simulates_int8(model):
        deployment = Deployment(
            quantize="int8",
            grids=(),
            dense_per_tensor=target.dense_per_tensor,
        )
    if deployment is None:
        return Plan(
            target=target,
            mode=get_mode(coarsest_mode(quantize), target),
            kernels=mixed_kernels(model, quantize),
        )
    mode = deployment.quantize
    way_out = "Call `kdtf.strip(model)` first"
    if quantize is not None and quantize != mode:
        raise ValueError(
            "`quantize` must be what the model was quantized for, which is "
            f"{mode!r}. Received: quantize={quantize!r}. {way_out}, or leave "
            "`quantize` out."
        )
    if mode not in target.modes:
        raise ValueError(
            f"The model was quantized for {mode!r}, and the target "
            f"{target.name!r} takes {list(target.modes)}. Received: "
            f"target={target.name!r}. {way_out}, or choose another target, "
            "such as 'android'."
        )
    return Plan(target=target, mode=mode, deployment=deployment)


def _simulates_int8(model: Any) -> bool:
    if flavour_of(model) != "tf_keras":
        return False
    from kdtf.transforms.quantize_wrappers import check_ranges
    from kdtf.transforms.tfmot_models import has_quantize_wrappers

    if not has_quantize_wrappers(model):
        return False
    check_ranges(model)
    return True
