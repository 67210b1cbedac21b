"""What teachers' and student's outputs mean, for a loss to compare them."""

from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

from kdtf.distillation import checks
from kdtf.distillation import outputs as outputs_module
from kdtf.distillation.outputs import OutputKind

__all__ = ["Made", "find_kinds", "likely_head"]


class Made(NamedTuple):
    """Outputs, and what made them.

    Attributes:
        role: "student", or a teacher's name.
        model: A Keras model.
        run: The model, or a function around it: gives outputs for inputs.
        outputs: What it gave for a batch.
    """

    role: str
    model: Any
    run: Any
    outputs: Any


def find_kinds(
    made: Sequence[Made],
    x: Any,
    *,
    declared: tuple[str, str],
    head: str,
    loss: Any,
) -> list[OutputKind]:
    """Returns the kind of each model's outputs, the student's last.

    Args:
        made: The teachers' outputs, if models teach, and the student's last.
        x: The inputs they were made of.
        declared: What the user said of teachers and student: "logits",
            "probabilities" or "auto".
        head: "softmax", "sigmoid" or "auto".
        loss: The hard loss, a hint to the head.

    Raises:
        ValueError: It cannot be told, or they do not fit.
    """
    activations = {
        one.role: outputs_module.last_activation(one.model)
        or outputs_module.find_activation(one.run, x, one.outputs)
        for one in made
    }
    values: list[Any] = []
    for role, activation in activations.items():
        said = declared[role == "student"]
        values.append(said if said != "auto" else _values(role, activation))
    checks.check_hard_loss(loss, values[-1])
    if head == "auto":
        head = _head(activations, likely_head(made[-1].outputs.shape[-1], loss))
    kind: Any = head
    return [OutputKind(values=value, head=kind) for value in values]


def likely_head(num_outputs: int | None, loss: Any) -> str:
    """Returns the head that logits without an activation are likely of.

    Args:
        num_outputs: Of each sample or token.
        loss: The hard loss.

    Example:
        >>> likely_head(10, None), likely_head(1, None)
        ('softmax', 'sigmoid')
    """
    single = num_outputs == 1 or checks.is_binary_loss(loss)
    return "sigmoid" if single else "softmax"


def _head(activations: dict[str, Any], otherwise: str) -> str:
    heads = set(activations.values()) & {"softmax", "sigmoid"}
    if len(heads) > 1:
        ends = ", ".join(
            f"the {role} ends in {end}" for role, end in activations.items()
        )
        raise ValueError(
            "Teacher and student must end in the same kind of head. "
            f"Received: {ends}. If one of them is right for both, say "
            "`head='softmax'` or `head='sigmoid'`."
        )
    return heads.pop() if heads else otherwise


def _values(role: str, activation: str | None) -> Any:
    if activation is None:
        raise ValueError(
            f"Whether the {role} returns logits or probabilities cannot be "
            "told: its output comes out of a compiled function. Received: "
            "outputs='auto'. Say `outputs='logits'`, `outputs="
            "'probabilities'`, or a pair of these, the teacher's first."
        )
    return "logits" if activation == "linear" else "probabilities"
