"""How small a model can get and still stand: steps, guard and journal, files for devices, and the watch after it."""
