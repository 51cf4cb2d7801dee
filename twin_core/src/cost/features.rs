//! The names that a profile's terms may use.

use crate::config::EngineConfig;

/// Features of a step or a load: they change while a simulation runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Feature {
    /// Tokens of requests that are not plain decodes.
    PrefillTokens,
    /// Requests that are not plain decodes.
    PrefillSeqs,
    /// Requests that decode one token.
    DecodeSeqs,
    /// Requests in the batch.
    Seqs,
    /// Tokens in the batch.
    Tokens,
    /// KV entries read.
    ContextTokens,
    /// Distinct adapters in the batch.
    Adapters,
    /// Requests with an adapter in the batch.
    LoraSeqs,
    /// Length of the running list.
    Running,
    /// Length of the waiting queue.
    Waiting,
    /// Rank of the adapter being loaded.
    Rank,
    /// `max_lora_rank` minus that rank: a slot wider than the adapter is padded.
    RankPadding,
    /// Distinct sets of adapters that have run in one step, at a poll of `/metrics`.
    LabelSets,
}

/// How many step features there are.
pub const NUM_FEATURES: usize = 13;

/// One value per [`Feature`].
pub type Values = [i64; NUM_FEATURES];

impl Feature {
    const NAMES: [(&'static str, Self); NUM_FEATURES] = [
        ("prefill_tokens", Self::PrefillTokens),
        ("prefill_seqs", Self::PrefillSeqs),
        ("decode_seqs", Self::DecodeSeqs),
        ("seqs", Self::Seqs),
        ("tokens", Self::Tokens),
        ("context_tokens", Self::ContextTokens),
        ("adapters", Self::Adapters),
        ("lora_seqs", Self::LoraSeqs),
        ("running", Self::Running),
        ("waiting", Self::Waiting),
        ("rank", Self::Rank),
        ("rank_padding", Self::RankPadding),
        ("label_sets", Self::LabelSets),
    ];

    /// The feature of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::NAMES
            .iter()
            .find(|(known, _)| *known == name)
            .map(|&(_, feature)| feature)
    }

    /// Whether it is 0 in every step of a server without LoRA.
    pub fn is_of_lora(self) -> bool {
        matches!(self, Self::Adapters | Self::LoraSeqs)
    }

    /// Every name a term may use, for error messages.
    pub fn known() -> String {
        let step = Self::NAMES.iter().map(|(name, _)| *name);
        step.chain(ConfigFeatures::NAMES).collect::<Vec<_>>().join(", ")
    }
}

/// Features of the configuration: constant in a simulation, folded into the coefficients.
#[derive(Clone, Copy, Debug)]
pub struct ConfigFeatures {
    lora: f64,
    max_loras: f64,
    max_lora_rank: f64,
    max_cpu_loras: f64,
    served_adapters: f64,
}

impl ConfigFeatures {
    const NAMES: [&'static str; 5] = [
        "lora",
        "max_loras",
        "max_lora_rank",
        "max_cpu_loras",
        "served_adapters",
    ];

    /// Of a server that serves `num_adapters` adapters. Without LoRA all are 0.
    pub fn new(config: &EngineConfig, num_adapters: u32) -> Self {
        let lora = f64::from(u8::from(config.lora_enabled()));
        Self {
            lora,
            max_loras: f64::from(config.max_loras),
            max_lora_rank: lora * f64::from(config.max_lora_rank),
            max_cpu_loras: lora * f64::from(config.max_cpu_loras),
            served_adapters: f64::from(num_adapters),
        }
    }

    /// Rank that every slot is allocated for; 0 without LoRA.
    pub fn max_lora_rank(&self) -> i64 {
        self.max_lora_rank as i64
    }

    /// Whether adapters can be served.
    pub fn lora_enabled(&self) -> bool {
        self.lora > 0.0
    }

    /// The value of that name.
    pub fn get(&self, name: &str) -> Option<f64> {
        match name {
            "lora" => Some(self.lora),
            "max_loras" => Some(self.max_loras),
            "max_lora_rank" => Some(self.max_lora_rank),
            "max_cpu_loras" => Some(self.max_cpu_loras),
            "served_adapters" => Some(self.served_adapters),
            _ => None,
        }
    }

    /// Whether a name is a configuration feature.
    pub fn is_known(name: &str) -> bool {
        Self::NAMES.contains(&name)
    }
}
