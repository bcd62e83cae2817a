//! Parity: recipe.
