"""The demo's language model, and students of it, trained and judged."""

import keras

import kdtf
from kdtf.recipes import demo_text


class Demo:
    """The demo's teacher, its text, and a judge.

    Args:
        folder: Where the teacher is kept once it is trained.
    """

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.settings = demo_text.TextSettings(seed=0)
        self.corpus = demo_text.read_corpus(self.settings)
        self.calibration = demo_text.text_inputs(self.corpus.train[0][:64])
        path = folder / "teacher.keras"
        if not path.exists():
            self._train().save(path)
        self.teacher = keras.saving.load_model(path, compile=False)

    def _train(self):
        keras.utils.set_random_seed(0)
        settings = self.settings
        model = demo_text.build_model(settings, self.corpus, settings.teacher)
        self._fit(
            model, settings.teacher_epochs, settings.teacher_learning_rate
        )
        return model

    def _fit(self, model, epochs, rate):
        demo_text.fit_text(
            model, self.corpus, self.settings, epochs, rate, verbose=0
        )

    def perplexity(self, model):
        """Returns that of the text that nobody has seen."""
        x, y = self.corpus.test
        row = kdtf.compare(
            {"it": model},
            (demo_text.text_inputs(x), y),
            metrics=[demo_text.perplexity()],
            latency_runs=0,
        )["it"]
        (value,) = row.metrics.values()
        return value

    def trained(self, student, arguments, *, is_taught=True):
        """Trains a student, with the teacher or on the labels alone.

        Args:
            student: What is trained.
            arguments: `epochs`, `rate` and `alpha`.
            is_taught: Whether the teacher helps.

        Returns:
            Its perplexity.
        """
        # Else a model that is trained by itself would take text.
        student.preprocessor = None
        model = student
        if is_taught:
            model = kdtf.Distiller(
                self.teacher, student, alpha=arguments.alpha, temperature=1.0
            )
        self._fit(model, arguments.epochs, arguments.rate)
        return self.perplexity(student)
