//! What to generate, as numbers.

use super::beam::BeamParams;
use super::{ParamError, SamplingParams, range};
use crate::ids::TokenId;

/// The most answers to one prompt.
pub const CHOICES_MAX: u32 = 16;

/// What to generate: one prompt, and one or several answers to it.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateRequest {
    pub prompt_ids: Vec<TokenId>,
    pub params: SamplingParams,
    pub answers: Answers,
}

/// How many answers to look for, and how.
#[derive(Clone, Debug, PartialEq)]
pub enum Answers {
    /// `best_of` independent ones, at most [`CHOICES_MAX`], and the `n` best of them by mean log-probability per token. All of
    /// them come in their own order.
    Sampled { n: u32, best_of: u32 },
    /// Those of a beam search.
    Beams(BeamParams),
}

impl Answers {
    pub const ONE: Answers = Answers::Sampled { n: 1, best_of: 1 };

    /// Sequences that run at once for one prompt; beams count as so many.
    pub fn sequences_max(&self) -> u32 {
        match self {
            Answers::Sampled { best_of, .. } => *best_of,
            Answers::Beams(beams) => beams.num_beams,
        }
    }

    /// Whether answers are compared, so that their log-probabilities are needed.
    pub fn are_ranked(&self) -> bool {
        matches!(self, Answers::Sampled { n, best_of } if n < best_of)
    }

    /// Checks the numbers of answers. Those of beams are checked with the parameters that they exclude.
    pub fn validate(&self) -> Result<(), ParamError> {
        let Answers::Sampled { n, best_of } = *self else { return Ok(()) };
        range("n", n, 1, CHOICES_MAX)?;
        range("best_of", best_of, n, CHOICES_MAX)
    }
}
