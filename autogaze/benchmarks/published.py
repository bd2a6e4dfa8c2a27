"""What share of the patches AutoGaze's published weights need, by frame rate and resolution.

Shares of all 265 patches of all scales at which their reconstruction loss is 0.7: the
published table is 224 pixels at four rates, and 30 frames a second at five resolutions.
"""

import numpy as np

AT_224_PIXELS = ((1.0, 0.205), (3.0, 0.181), (10.0, 0.132), (30.0, 0.069))
AT_30_FPS = ((224.0, 0.069), (448.0, 0.058), (896.0, 0.040), (1792.0, 0.024), (3584.0, 0.009))

HOW = (
    "published shares for loss 0.7 (224 px: 1, 3, 10, 30 fps .205 .181 .132 .069; 30 fps: 448, "
    "896, 1792 px .058 .040 .024); between them straight lines in logarithms, rate and "
    "resolution taken as independent factors, ends held"
)


def published_ratio(fps: float, pixels: float) -> float:
    """The share at `fps` frames a second of `pixels` x `pixels`.

    Between published points the logarithm of the share is linear in that of the rate or
    the resolution; the two are taken as independent factors. Outside the published range
    the nearest point holds.
    """
    factor = _between(AT_30_FPS, pixels) / AT_30_FPS[0][1]
    return _between(AT_224_PIXELS, fps) * factor


def _between(points: tuple[tuple[float, float], ...], at: float) -> float:
    where, share = np.log(points).T
    return float(np.exp(np.interp(np.log(at), where, share)))
