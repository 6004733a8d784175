//! Maps whose keys are the engine's own: run keys, ids it counts, positions. They are random or dense already, so the keyed hash that
//! protects a map against crafted keys would only cost more than the look-up. A position holds a branch's name, which may be the program's
//! own: at worst it slows its own run.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

pub type KeyMap<K, V> = HashMap<K, V, BuildHasherDefault<KeyHasher>>;
pub type KeySet<K> = HashSet<K, BuildHasherDefault<KeyHasher>>;

#[derive(Default)]
pub struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        // The table takes its position from the low bits, which a multiplication mixes least.
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(26) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_u8(&mut self, byte: u8) {
        self.write_u64(byte.into());
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dense_and_random_keys_spread_over_the_low_bits() {
        use std::hash::{BuildHasher, Hash};
        let build = BuildHasherDefault::<KeyHasher>::default();
        let spread = |hashes: Vec<u64>| hashes.iter().map(|h| h & 1023).collect::<HashSet<_>>().len();
        assert!(spread((0..1024u64).map(|id| build.hash_one(id)).collect()) > 500);
        assert!(spread((0..1024).map(|_| build.hash_one(uuid::Uuid::now_v7())).collect()) > 500);
        let place = |seq: i32| {
            let mut hasher = KeyHasher::default();
            ("a/1", seq).hash(&mut hasher);
            hasher.finish()
        };
        assert!(spread((0..1024).map(place).collect()) > 500);
    }
}
