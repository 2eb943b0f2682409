"""How a study is planned, run and gathered: one command a line, each once, in processes that share the cores."""
