"""Shapes written in signatures are checked while tests run."""

from jaxtyping import install_import_hook

import tests.typechecker  # noqa: F401 - the hook looks it up by name

install_import_hook("autogaze", "tests.typechecker.check")
