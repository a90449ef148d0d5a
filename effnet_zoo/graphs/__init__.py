"""The model as other runtimes take it: what goes in and comes out, its ONNX graph, and the runtimes themselves."""
