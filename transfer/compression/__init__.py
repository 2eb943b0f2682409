"""How small a model can get and still stand: steps, guard, journal, files for devices."""
