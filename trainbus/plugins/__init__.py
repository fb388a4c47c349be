"""The plugins that ship with trainbus, each registered like anybody's."""
