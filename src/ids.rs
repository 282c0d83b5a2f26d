//! The numbers that name things. Newtypes where a swap would hurt; no meaning beyond that.

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[derive(bytemuck::Pod, bytemuck::Zeroable)]
        #[serde(transparent)]
        #[repr(transparent)]
        pub struct $name(pub u32);

        impl $name {
            /// The id as an index into a table.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A token of the model's vocabulary, `0..vocab_size`.
    TokenId
);
id!(
    /// A sequence, unique for the life of an engine.
    SeqId
);
id!(
    /// A device's place for one running sequence (its token counts, its last sampled token), `0..slots_max`.
    SlotId
);
id!(
    /// A KV-cache block of the arena, `0..num_blocks`.
    BlockId
);
