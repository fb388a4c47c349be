"""For plugin authors and for trainbus itself: bus in memory, clocks, histories, checkers."""
