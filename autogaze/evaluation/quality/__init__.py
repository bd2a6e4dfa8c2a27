"""`autogaze bench quality`: loss against share of patches, for every selector.

`selectors` gaze at `clips`, `metrics` give losses, `measure` puts them together; `report` makes
curves and intervals of the losses, which `tables` and `plots` show. `thresholds` compares
predicted with measured losses where selectors stop early.
"""
