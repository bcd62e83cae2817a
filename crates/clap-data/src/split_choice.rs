//! Which splits a split's name takes: `valid` that one, `!fold1` all others.

/// Whether `wanted` takes the split called `split`; everything is taken when nothing is wanted.
pub(crate) fn takes(wanted: Option<&str>, split: &str) -> bool {
    match wanted {
        None => true,
        Some(wanted) => match wanted.strip_prefix('!') {
            Some(other) => split != other,
            None => split == wanted,
        },
    }
}

/// The name in a choice of splits, which has to be that of a split.
pub(crate) fn named(wanted: &str) -> &str {
    wanted.strip_prefix('!').unwrap_or(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_split_or_all_but_one() {
        assert!(takes(None, "a") && takes(Some("a"), "a") && takes(Some("!b"), "a"));
        assert!(!takes(Some("b"), "a") && !takes(Some("!a"), "a"));
        assert_eq!((named("a"), named("!a")), ("a", "a"));
    }
}
