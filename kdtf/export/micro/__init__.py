"""From a model to a folder of C++ that a microcontroller's program includes.

Light on purpose: the fresh process in which TensorFlow Lite Micro runs
(`kdtf.export.micro.worker`) starts without Keras and TensorFlow. The public
names are those of `kdtf.export`.
"""

__all__: list[str] = []
