"""The networks and pairs of networks that the project measures itself with.

``networks.ALL`` lists small, real networks; ``same.same_pairs`` writes one function in two ways; ``changed.changed_pairs``
plants a real change in one of two networks; ``minilm`` holds a trained sentence transformer.
"""
