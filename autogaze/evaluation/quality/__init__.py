"""`autogaze bench quality`: what is lost at what share of patches, by every selector.

Who chooses (`contenders`; by `habit` without a look), of which clips (`clips`), judged by
whom (`judges`) is put together in `measure`; `bootstrap` and `report` turn losses into
figures and intervals; `tables`, `curves_plot` and `stops_plot` show them. `stops` asks how
well predicted losses are met.
"""
