"""An answer benchmark that is trained from nothing: questions about drawn videos (docs/answers.md)."""
