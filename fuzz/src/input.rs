//! Takes the fuzzer's bytes apart; past their end everything is 0 or empty.

/// What is left of the input.
#[derive(Debug, Clone, Copy)]
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl<'a> Input<'a> {
    /// The next byte.
    pub(super) fn byte(&mut self) -> u8 {
        let Some((byte, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *byte
    }

    /// The next bytes, at most `count`.
    pub(super) fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A length byte and as many bytes.
    pub(super) fn short(&mut self) -> &'a [u8] {
        let count = self.byte();
        self.take(count.into())
    }

    /// Eight bytes as a number.
    pub(super) fn number(&mut self) -> i64 {
        let mut bytes = [0; 8];
        for (to, from) in bytes.iter_mut().zip(self.take(8)) {
            *to = *from;
        }
        i64::from_le_bytes(bytes)
    }

    /// One of `choices`.
    pub(super) fn choose<'c, T>(&mut self, choices: &'c [T]) -> &'c T {
        &choices[usize::from(self.byte()) % choices.len()]
    }
}
