"""Read and write the files of Keras 2 and 3: ``.keras``, ``.h5`` and ``.weights.h5``.

Only h5py is needed, never Keras, and nothing in a file is executed: of a model's configuration the names, classes and
constants of the layers are read. The three kinds of file differ in what they state:

- ``.keras`` and a whole-model ``.h5`` have the configuration. It states how images are prepared and what follows the
  network. A network inside a fine-tuned model is found by the names of its layers.
- A weights-only ``.h5`` has names, but no constants and no layers without weights.
- ``.weights.h5`` numbers the layers of each class (``conv2d_3``). Newer files have the names too. In older ones the
  order is that of the network, which the numbers of layers and their widths show.

An archive has checksums, an HDF5 file has none. The HDF5 library itself can crash on a file whose bytes were changed:
take ``.h5`` files only from where you would take a program.
"""
