"""Where models come from: the zoo, files, a hub, a module; materialised in a cache by digest."""
