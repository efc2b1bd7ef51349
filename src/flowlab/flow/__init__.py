"""The mathematics of flow matching as pure functions of tensors: t = 0 is data, t = 1 is noise."""
