"""The federation of common layers: thin Flower apps around the method."""
