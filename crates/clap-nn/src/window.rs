//! Geometry of shifted windows (Liu et al. 2021, arXiv 2103.14030, §3.2; `microsoft/Swin-Transformer` `swin_transformer.py`).

use candle_core::{Result, Tensor};

/// How a grid of tokens is cut into windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowGeometry {
    /// Rows of tokens; a multiple of `window`.
    pub height: usize,
    /// Columns of tokens; a multiple of `window`.
    pub width: usize,
    /// Side of a window.
    pub window: usize,
    /// Cyclic shift towards the origin before cutting, less than `window`; 0 for none.
    pub shift: usize,
    /// Attention heads.
    pub heads: usize,
}

impl WindowGeometry {
    /// Tokens of one window.
    pub fn area(&self) -> usize {
        self.window * self.window
    }

    /// Windows of one image.
    pub fn windows(&self) -> usize {
        (self.height / self.window) * (self.width / self.window)
    }

    /// Checks that windows tile the grid.
    pub fn validate(&self) -> Result<()> {
        let Self { height, width, window, shift, heads } = *self;
        if window == 0 || heads == 0 || height == 0 || width == 0 || height % window != 0 || width % window != 0 {
            candle_core::bail!("{height} x {width} tokens cannot be cut into windows of {window} with {heads} heads");
        }
        if shift >= window {
            candle_core::bail!("the shift {shift} must be less than the window {window}");
        }
        Ok(())
    }

    /// For each window in turn, the natural (row-major) indices of its tokens: roll by `-shift`, then partition.
    pub fn token_order(&self) -> Vec<u32> {
        let mut order = Vec::with_capacity(self.height * self.width);
        for window in 0..self.windows() {
            self.each_token(window, |row, column| order.push((row * self.width + column) as u32));
        }
        order
    }

    /// Calls `f(row, column)` in natural coordinates for each token of a window, in the window's order.
    pub(crate) fn each_token(&self, window: usize, mut f: impl FnMut(usize, usize)) {
        let across = self.width / self.window;
        let (top, left) = ((window / across) * self.window, (window % across) * self.window);
        for i in 0..self.window {
            let row = (top + i + self.shift) % self.height;
            for j in 0..self.window {
                f(row, (left + j + self.shift) % self.width);
            }
        }
    }

    /// Region labels (0 to 8) of the tokens of a window of the rolled image. Tokens of different regions were not neighbours
    /// before the roll and must not attend to each other. `None` for windows of a single region.
    pub fn regions(&self, window: usize) -> Option<Vec<u8>> {
        let across = self.width / self.window;
        let (top, left) = ((window / across) * self.window, (window % across) * self.window);
        let (last_row, last_column) = (top + self.window == self.height, left + self.window == self.width);
        if self.shift == 0 || !(last_row || last_column) {
            return None;
        }
        let band = |position: usize, size: usize| -> u8 {
            if position < size - self.window {
                0
            } else if position < size - self.shift {
                1
            } else {
                2
            }
        };
        let label = |i: usize, j: usize| 3 * band(top + i, self.height) + band(left + j, self.width);
        Some((0..self.area()).map(|token| label(token / self.window, token % self.window)).collect())
    }
}

/// For each pair of tokens of a window (N·N, row-major), the row of the bias table for their offset:
/// `(Δrow + window-1) · (2·window-1) + (Δcolumn + window-1)`.
pub fn relative_position_index(window: usize) -> Vec<u32> {
    let area = window * window;
    let side = 2 * window - 1;
    let mut index = Vec::with_capacity(area * area);
    for query in 0..area {
        for key in 0..area {
            let row = query / window + window - 1 - key / window;
            let column = query % window + window - 1 - key % window;
            index.push((row * side + column) as u32);
        }
    }
    index
}

/// The bias of every pair of tokens: `table` ((2·window-1)², heads) and `index` (N·N) of [`relative_position_index`] → (heads, N, N).
pub fn relative_position_bias(table: &Tensor, index: &Tensor) -> Result<Tensor> {
    let (_, heads) = table.dims2()?;
    let area = index.elem_count().isqrt();
    table.index_select(&index.flatten_all()?, 0)?.t()?.contiguous()?.reshape((heads, area, area))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(size: usize, window: usize, shift: usize) -> WindowGeometry {
        WindowGeometry { height: size, width: size, window, shift, heads: 1 }
    }

    #[test]
    fn relative_index_of_the_corners() {
        let index = relative_position_index(8);
        assert_eq!(index.len(), 64 * 64);
        assert_eq!(index[0], 112);
        assert_eq!((index[63], index[63 * 64]), (0, 224));
        assert_eq!((index[1], index[64]), (111, 113));
        assert!((0..64).all(|i| index[i * 64 + i] == 112));
    }

    #[test]
    fn token_order_is_a_permutation_and_unshifted_windows_are_squares() {
        for (window, shift) in [(4, 0), (4, 2), (4, 3), (2, 1)] {
            let geometry = WindowGeometry { height: 8, width: 12, window, shift, heads: 1 };
            let mut order = geometry.token_order();
            if shift == 0 {
                assert_eq!(order[..16], [0, 1, 2, 3, 12, 13, 14, 15, 24, 25, 26, 27, 36, 37, 38, 39]);
            }
            order.sort_unstable();
            assert!(order.iter().enumerate().all(|(i, &token)| i == token as usize));
        }
    }

    #[test]
    fn the_last_window_of_a_shifted_grid_wraps() {
        let order = geometry(8, 4, 2).token_order();
        assert_eq!(order[..4], [18, 19, 20, 21]);
        assert_eq!(order[48..52], [54, 55, 48, 49]);
    }

    /// Of 64, 16 or 4 windows only the last row and column are cut, the corner one into four regions.
    #[test]
    fn region_counts() {
        for (size, windows) in [(64, 64), (32, 16), (16, 4)] {
            let geometry = geometry(size, 8, 4);
            assert_eq!(geometry.windows(), windows);
            let across = size / 8;
            for window in 0..windows {
                let edges = usize::from(window / across == across - 1) + usize::from(window % across == across - 1);
                let mut labels = geometry.regions(window).unwrap_or_else(|| vec![0]);
                labels.sort_unstable();
                labels.dedup();
                assert_eq!(labels.len(), 1 << edges, "window {window} of {windows}");
            }
        }
        assert_eq!(geometry(8, 8, 0).regions(0), None);
    }

    #[test]
    fn impossible_geometries_are_refused() {
        assert!(geometry(8, 3, 0).validate().is_err());
        assert!(geometry(8, 4, 4).validate().is_err());
        assert!(geometry(8, 0, 0).validate().is_err());
        assert!(geometry(8, 4, 3).validate().is_ok());
    }
}
