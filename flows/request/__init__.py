"""What a training is asked to do: parameters, general values, saved presets, and suggestions for a mistyped name."""
