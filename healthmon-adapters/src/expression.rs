//! Regular expressions that are compiled to so little that no text makes their search long.
//!
//! The crate `regex` does not go back, but its time is the product of text and expression: where the
//! text brings its automaton to make a new state for each byte, some 0.2 µs for each byte and each
//! KiB that the expression is compiled to. That is most of a second for 64 KiB of both.

/// What one expression may be compiled to, in KiB.
const KIB_LIMIT: usize = 64;
/// What all expressions of one service may be compiled to together, in KiB.
#[cfg(any(feature = "http", feature = "tcp", feature = "websocket"))]
pub(crate) const SUM_LIMIT: usize = 96;
/// The sizes that are told apart, in KiB: an expression counts as the first that it fits into.
const SIZES: [usize; 13] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 56, KIB_LIMIT];

/// Of an expression that is too large.
pub(crate) const TOO_LARGE: &str = "is too large: compiled, one expression may take 64 KiB and all of a service 96, of \
                                    which one \\w takes 56 and one (?-u:\\w) less than 1";

/// Compiles an expression by `build`, which is told how many bytes it may take; with it comes how
/// many KiB it takes.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn compile<R>(build: impl Fn(usize) -> Result<R, regex::Error>) -> Result<(R, usize), regex::Error> {
    // First whether it is one at all: most that are not are hostile, and to build costs as much as it takes.
    let mut best = (build(KIB_LIMIT * 1024)?, KIB_LIMIT);
    let (mut low, mut high) = (0, SIZES.len() - 1);
    while low < high {
        let middle = (low + high) / 2;
        match build(SIZES[middle] * 1024) {
            Ok(expression) => (best, high) = ((expression, SIZES[middle]), middle),
            Err(regex::Error::CompiledTooBig(_)) => low = middle + 1,
            Err(error) => return Err(error),
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use regex::RegexBuilder;

    use super::*;

    fn kib(text: &str) -> Option<usize> {
        compile(|limit| RegexBuilder::new(text).size_limit(limit).build()).ok().map(|(_, kib)| kib)
    }

    #[test]
    fn usual_expressions_are_small() {
        for (text, expected) in [
            ("^HIT from [a-z0-9.-]+$", 1),
            (r"v\d+\.\d+\.\d+", 16),
            (r"(?i)status:\s*(ok|green)", 3),
            (r"(?-u:\w)+@(?-u:\w)+", 1),
            (r"\w+", 56),
            (r"\d{4}-\d{2}-\d{2}", 48),
            ("x{1000}", 32),
        ] {
            assert_eq!(kib(text), Some(expected), "{text}");
        }
        for too_large in [r"\w+@\w+", "[01]{3000}", "((a{100}){100}){100}"] {
            assert_eq!(kib(too_large), None, "{too_large}");
        }
    }

    /// Every expression that is taken and is known to be slow, on what makes it so.
    #[test]
    fn sec_no_text_makes_a_search_take_long() {
        let mut random = 1_u64;
        let mut next = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            random >> 33
        };
        let texts: Vec<String> = [
            (0..8_192).map(|_| if next() % 2 == 0 { '0' } else { '1' }).collect(),
            (0..8_192).map(|_| if next() % 2 == 0 { 'a' } else { 'b' }).collect(),
            "a".repeat(8_192),
        ]
        .into();
        let mut taken = 0;
        for count in [400, 800, 1_200, 1_600, 3_200, 6_400] {
            for text in [format!("[01]*1[01]{{{count}}}$x"), format!("(?-u)a[ab]{{{count}}}c")] {
                let build = |limit| RegexBuilder::new(&text).size_limit(limit).dfa_size_limit(256 * 1024).build();
                let Ok((expression, _)) = compile(build) else { continue };
                taken += 1;
                for hostile in &texts {
                    let begun = Instant::now();
                    assert!(!expression.is_match(hostile));
                    // Optimised it is an eighth of a second at most, on a core that is not shared.
                    let most = Duration::from_secs(if cfg!(debug_assertions) { 30 } else { 2 });
                    assert!(begun.elapsed() < most, "{text}: {:?}", begun.elapsed());
                }
            }
        }
        assert!((4..=8).contains(&taken), "{taken} of them are taken: of the larger ones none is");
    }
}
