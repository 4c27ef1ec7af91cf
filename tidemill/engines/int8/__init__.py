"""int8: the linear layers of a model with weights in 8 bits, and activations quantized by groups while it runs.

`smoothing` divides a layer's inputs by factors that its weights are multiplied by, so that
neither has a few values far beyond the others. `weights` puts the weights in 8 bits, in the
shape of graph by which OpenVINO knows them. A group's range is found in the group alone, so
a row's answer does not depend on the rows beside it.
"""
