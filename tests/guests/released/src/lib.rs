//! Holds nothing: the guests are in `examples`, and share nothing, so that no later version of the contract changes an older guest.
