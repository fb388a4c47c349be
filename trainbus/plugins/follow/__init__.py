"""The follow plugin: trainings that know nothing of trainbus, watched by the files that they write."""
