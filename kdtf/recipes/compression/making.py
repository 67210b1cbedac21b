"""Walks one way: shrinks, teaches, prunes, quantizes, exports, measures."""

import dataclasses
import pathlib
import tempfile
import time
from typing import Any

import numpy as np

from kdtf.batches import first_examples
from kdtf.copies import copied
from kdtf.evaluation import Row
from kdtf.evaluation import compare
from kdtf.evaluation.metrics import metric_direction
from kdtf.evaluation.metrics import metric_name
from kdtf.export import export_tflite
from kdtf.pruning import prune
from kdtf.pruning import shrink
from kdtf.quantization import quantize_aware
from kdtf.recipes.compression.candidate import TAUGHT
from kdtf.recipes.compression.candidate import Candidate
from kdtf.recipes.compression.sizes import Sizes
from kdtf.recipes.compression.teaching import Teaching
from kdtf.recipes.compression.teaching import TimeIsUp
from kdtf.recipes.compression.ways import Way
from kdtf.recipes.workspace import Workspace
from kdtf.recipes.workspace import key_of
from kdtf.schedules import PolynomialSchedule
from kdtf.search.objective import as_if_trained

__all__ = ["Maker"]

# Ranges are measured on so many, and files compared on so many.
_NUM_CALIBRATION, _NUM_VERIFIED = 200, 64
# Of the learning rate, for weights that are trained already.
_FINE_TUNING = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Maker:
    """Makes candidates of one trained model.

    Attributes:
        model: As it was trained.
        teaching: How students are trained.
        validation: What files are judged on.
        metric: By which.
        target: Of the export.
        workspace: Keeps shrunk models that were taught.
        setting: What decides how all of them turn out, plain data.
    """

    model: Any
    teaching: Teaching
    validation: Any
    metric: Any
    target: str
    workspace: Workspace
    setting: dict[str, Any]

    def original(self) -> Candidate:
        """Returns the float file of the model as it is, measured."""
        settings = {"export": {"quantize": None}}
        start = time.monotonic()
        path = self.workspace.folder / "original.tflite"
        self._export(self.model, path, target="float")
        candidate = self._measured("original", "original", settings, path)
        seconds = time.monotonic() - start
        return dataclasses.replace(candidate, quality_loss=0.0, seconds=seconds)

    def candidate(self, way: Way, original: Candidate) -> Candidate:
        """Walks a way to its end; what fails on it is a failed candidate.

        Args:
            way: What to do.
            original: Whose quality is compared with.
        """
        start = time.monotonic()
        path = self.workspace.folder / f"{_file_name(way.name)}.tflite"
        try:
            student = self.student(way)
            self._export(
                student,
                path,
                target=self.target,
                quantize=way.quantize,
                sparse=bool(way.sparsity),
            )
            found = self._measured(way.name, way.stage, way.steps, path)
        except TimeIsUp as late:
            return _without_file(way, "skipped", late, start)
        # Whatever a model, a converter or a runtime does not like about this
        # way: the others are still worth trying.
        except Exception as error:
            path.unlink(missing_ok=True)
            return _without_file(way, "failed", error, start)
        loss = original.quality - found.quality
        if metric_direction(self.metric) == "lower":
            loss = -loss
        return dataclasses.replace(
            found, quality_loss=loss, seconds=time.monotonic() - start
        )

    def size_before_training(self, way: Way) -> int | None:
        """Returns the bytes of the file of a way without its training.

        None if nothing so small exists, or it has no file. What is known from
        an earlier run is not exported again.
        """
        settings = {name: way.steps[name] for name in ("shrink", "export")}
        sizes = Sizes(self.workspace.folder, self.setting)
        return sizes.of(settings, lambda: self._untrained_size(way))

    def _untrained_size(self, way: Way) -> int | None:
        # Of its own: other processes may be at the same.
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "untrained.tflite")
            try:
                student = self._shrunk(way)
                with as_if_trained(student):
                    self._export(
                        student, path, target=self.target, quantize=way.mode
                    )
            except ValueError:
                return None
            return path.stat().st_size

    def student(self, way: Way) -> Any:
        """Returns the model at the end of a way, before its export."""
        if not way.trains:
            return self.model
        student = self._taught(way) if way.keep < 1.0 else copied(self.model)
        if way.sparsity:
            steps = self.teaching.epochs * self.teaching.steps
            schedule = PolynomialSchedule(
                initial=0.0,
                final=way.sparsity,
                begin_step=0,
                end_step=steps // 2,
            )
            prune(
                student,
                schedule=schedule,
                structure="litert_int8",
                frequency=max(1, steps // 50),
            )
            self._teach(student, way, anew=False, name="prune")
        if way.scheme:
            data = None
            if way.scheme.startswith("int8"):
                data = (first_examples(self.teaching.train, _NUM_CALIBRATION),)
            quantize_aware(student, way.scheme, data=data)
            self._teach(student, way, anew=False, name="quantize")
        return student

    def _shrunk(self, way: Way) -> Any:
        data = first_examples(self.teaching.train, _NUM_CALIBRATION)
        return shrink(self.model, **way.steps["shrink"], data=data)

    def _taught(self, way: Way) -> Any:
        """Returns the shrunk model after distillation, kept once it is."""
        steps = {key: way.steps[key] for key in ("shrink", "distil")}

        def make() -> Any:
            student = self._shrunk(way)
            self._teach(student, way, anew=True, name="distil")
            return student

        return self.workspace.model(
            f"{_file_name(way.name)}{TAUGHT}",
            settings=self.setting | steps,
            make=make,
            title=f"{way.name}: taught by the original",
        )

    def _teach(self, student: Any, way: Way, *, anew: bool, name: str) -> None:
        """Trains what lost much, or only weights that are good already."""
        rate = self.teaching.rate * (1.0 if anew else _FINE_TUNING)
        self.teaching(
            student,
            self.model,
            alpha=way.alpha,
            temperature=way.temperature,
            rate=rate,
            epochs=self.teaching.epochs * (way.epochs_factor if anew else 1),
            # Of these settings alone: a run with others must not go on there.
            backup=self.workspace.folder
            / f"{name}-{key_of([self.setting, way.steps])}",
        )

    def _export(self, model: Any, path: pathlib.Path, **options: Any) -> None:
        export_tflite(
            model,
            path,
            representative_data=first_examples(
                self.teaching.train, _NUM_CALIBRATION
            ),
            verify_data=first_examples(self.validation, _NUM_VERIFIED),
            **options,
        )

    def _measured(
        self, name: str, stage: str, settings: Any, path: pathlib.Path
    ) -> Candidate:
        row: Row = compare(
            {name: path}, self.validation, metrics=[self.metric]
        )[name]
        latency = row.latency_ms_p50
        return Candidate(
            name=name,
            stage=stage,
            settings=settings,
            status="complete",
            reason="; ".join(row.notes),
            file=path.name,
            size_bytes=float(row.size_bytes),
            gzip_size_bytes=float(row.gzip_size_bytes),
            latency_ms=np.nan if latency is None else latency,
            quality=row.metrics[metric_name(self.metric)],
        )


def _without_file(
    way: Way, status: str, why: BaseException, start: float
) -> Candidate:
    return Candidate(
        name=way.name,
        stage=way.stage,
        settings=way.steps,
        status=status,
        reason=f"{type(why).__name__}: {why}"
        if status == "failed"
        else f"{why}",
        seconds=time.monotonic() - start,
    )


def _file_name(name: str) -> str:
    words = "".join(c if c.isalnum() else " " for c in name).split()
    return "-".join(words).lower()
