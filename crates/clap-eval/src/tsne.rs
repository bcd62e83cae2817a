//! Embeddings as points of a plane that keeps near ones near: t-SNE (van der Maaten and Hinton 2008), exact, without randomness.
//!
//! The points begin at their first two principal components, as scikit-learn's `init="pca"` has it, so that the same embeddings give
//! the same picture. Time and memory grow with the square of the number of points: it is meant for a few thousand.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::error::Result;
use crate::similarity::Embeddings;

/// Neighbours that a point is made to keep, smoothly; fewer where there are few points.
const PERPLEXITY: f64 = 30.0;
/// Steps in which attraction is exaggerated, so that groups form, and all steps.
const STEPS: (usize, usize) = (250, 1000);
const EXAGGERATION: f64 = 12.0;

/// Places `(x, y)` of the rows of `embeddings` `(N, D)`, within a unit or so of the origin after scaling by the greatest coordinate.
///
/// # Errors
/// Embeddings that are empty, no matrix or not finite.
pub fn tsne(embeddings: &Tensor) -> Result<Vec<[f64; 2]>> {
    let checked = Embeddings::new("audio", embeddings)?;
    let rows: Vec<Vec<f32>> = checked.matrix.to_vec2()?;
    let mut places = principal_components(&rows);
    if rows.len() < 4 {
        return Ok(scaled(places));
    }
    let attraction = neighbours(&rows);
    // Small enough that no two points begin out of each other's reach.
    let spread = (places.iter().map(|p| p[0] * p[0]).sum::<f64>() / places.len() as f64).sqrt().max(1e-12);
    for place in &mut places {
        *place = place.map(|coordinate| coordinate / spread * 1e-4);
    }
    let rate = (rows.len() as f64 / EXAGGERATION / 4.0).max(50.0);
    let (mut speed, mut gains) = (vec![[0.0f64; 2]; rows.len()], vec![[1.0f64; 2]; rows.len()]);
    for step in 0..STEPS.1 {
        let (exaggeration, momentum) = if step < STEPS.0 { (EXAGGERATION, 0.5) } else { (1.0, 0.8) };
        let gradient = gradient(&places, &attraction, exaggeration);
        for (((place, speed), gains), gradient) in places.iter_mut().zip(&mut speed).zip(&mut gains).zip(gradient) {
            for axis in 0..2 {
                // A step grows while its direction lasts (Jacobs 1988).
                let turned = (gradient[axis] > 0.0) == (speed[axis] > 0.0);
                gains[axis] = if turned { (gains[axis] * 0.8).max(0.01) } else { gains[axis] + 0.2 };
                speed[axis] = momentum * speed[axis] - rate * gains[axis] * gradient[axis];
                place[axis] += speed[axis];
            }
        }
    }
    Ok(scaled(places))
}

/// The gradient of the divergence between both kinds of neighbours.
fn gradient(places: &[[f64; 2]], attraction: &[Vec<f32>], exaggeration: f64) -> Vec<[f64; 2]> {
    let near = |a: &[f64; 2], b: &[f64; 2]| 1.0 / (1.0 + (a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2));
    // Row by row and then in order, so that the sum does not depend on the threads.
    let sums: Vec<f64> = places.par_iter().map(|a| places.iter().map(|b| near(a, b)).sum::<f64>() - 1.0).collect();
    let total: f64 = sums.iter().sum::<f64>().max(1e-12);
    let row = |(i, a): (usize, &[f64; 2])| {
        let mut force = [0.0; 2];
        for (b, p) in places.iter().zip(&attraction[i]) {
            let near = near(a, b);
            let pull = 4.0 * (exaggeration * f64::from(*p) - near / total) * near;
            force[0] += pull * (a[0] - b[0]);
            force[1] += pull * (a[1] - b[1]);
        }
        force
    };
    places.par_iter().enumerate().map(row).collect()
}

/// The joint probabilities of neighbours: a Gaussian around each point, as wide as the perplexity asks for, made symmetric.
fn neighbours(rows: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let n = rows.len();
    let entropy = PERPLEXITY.min((n - 1) as f64 / 3.0).ln();
    let conditional: Vec<Vec<f64>> = (0..n)
        .into_par_iter()
        .map(|i| {
            let distance =
                |j: usize| -> f64 { rows[i].iter().zip(&rows[j]).map(|(a, b)| f64::from(a - b).powi(2)).sum() };
            let distances: Vec<f64> = (0..n).map(|j| if i == j { f64::INFINITY } else { distance(j) }).collect();
            let nearest = distances.iter().copied().fold(f64::INFINITY, f64::min);
            let (mut low, mut high, mut narrow) = (0.0f64, f64::INFINITY, 1.0f64);
            let mut probabilities = Vec::new();
            for _ in 0..64 {
                probabilities = distances.iter().map(|d| (-(d - nearest) * narrow).exp()).collect();
                let sum: f64 = probabilities.iter().sum();
                probabilities.iter_mut().for_each(|p| *p /= sum);
                let found: f64 = -probabilities.iter().filter(|p| **p > 0.0).map(|p| p * p.ln()).sum::<f64>();
                if (found - entropy).abs() < 1e-5 {
                    break;
                }
                if found > entropy {
                    low = narrow
                } else {
                    high = narrow
                }
                narrow = if high.is_finite() { (low + high) / 2.0 } else { narrow * 2.0 };
            }
            probabilities
        })
        .collect();
    let joint = |i: usize, j: usize| ((conditional[i][j] + conditional[j][i]) / (2 * n) as f64) as f32;
    (0..n).map(|i| (0..n).map(|j| joint(i, j)).collect()).collect()
}

/// Coordinates along the two directions in which the rows differ most, by power iteration on the centred rows.
fn principal_components(rows: &[Vec<f32>]) -> Vec<[f64; 2]> {
    let (n, width) = (rows.len(), rows.first().map_or(0, Vec::len));
    let mean: Vec<f64> = (0..width).map(|k| rows.iter().map(|row| f64::from(row[k])).sum::<f64>() / n as f64).collect();
    let centred: Vec<Vec<f64>> =
        rows.iter().map(|row| row.iter().zip(&mean).map(|(x, m)| f64::from(*x) - m).collect()).collect();
    let mut places = vec![[0.0; 2]; n];
    let mut first: Option<Vec<f64>> = None;
    for axis in 0..2 {
        // Any start that is not at right angles to the answer will do.
        let mut direction: Vec<f64> = (0..width).map(|k| 1.0 + (k as f64 * 0.7 + axis as f64).sin()).collect();
        for _ in 0..100 {
            if let Some(first) = &first {
                let along = dot(&direction, first);
                direction.iter_mut().zip(first).for_each(|(d, f)| *d -= along * f);
            }
            let mut next = vec![0.0; width];
            for row in &centred {
                let along = dot(row, &direction);
                next.iter_mut().zip(row).for_each(|(next, x)| *next += along * x);
            }
            let length = dot(&next, &next).sqrt();
            if length < 1e-30 {
                break;
            }
            direction = next.into_iter().map(|x| x / length).collect();
        }
        for (place, row) in places.iter_mut().zip(&centred) {
            place[axis] = dot(row, &direction);
        }
        first.get_or_insert(direction);
    }
    places
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Centred, the greatest coordinate being 1.
fn scaled(places: Vec<[f64; 2]>) -> Vec<[f64; 2]> {
    let middle = [0, 1].map(|axis| places.iter().map(|p| p[axis]).sum::<f64>() / places.len() as f64);
    let greatest = places.iter().flat_map(|p| [0, 1].map(|axis| (p[axis] - middle[axis]).abs())).fold(1e-12, f64::max);
    places.into_iter().map(|p| [0, 1].map(|axis| (p[axis] - middle[axis]) / greatest)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// Three groups of twenty around corners of a space of ten dimensions.
    fn groups() -> Tensor {
        let mut state = 5u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 * 0.6
        };
        let values: Vec<f32> = (0..60)
            .flat_map(|i| (0..10).map(move |k| (i, k)))
            .map(|(i, k)| f32::from(u8::from(k == i % 3)) + noise())
            .collect();
        Tensor::from_vec(values, (60, 10), &Device::Cpu).unwrap()
    }

    #[test]
    fn groups_stay_together_and_apart() {
        let places = tsne(&groups()).unwrap();
        let distance = |a: usize, b: usize| (places[a][0] - places[b][0]).hypot(places[a][1] - places[b][1]);
        for point in 0..60 {
            let nearest = (0..60)
                .filter(|&other| other != point)
                .min_by(|&a, &b| distance(point, a).total_cmp(&distance(point, b)));
            assert_eq!(nearest.unwrap() % 3, point % 3, "{places:?}");
        }
        assert_eq!(tsne(&groups()).unwrap(), places);
        assert!(places.iter().flatten().all(|c| c.abs() <= 1.0));
    }

    #[test]
    fn the_first_component_is_where_rows_differ_most() {
        let rows: Vec<Vec<f32>> = (0..9).map(|i| vec![1.0, i as f32, (i % 2) as f32 * 0.1]).collect();
        let places = principal_components(&rows);
        for (i, place) in places.iter().enumerate() {
            assert!((place[0].abs() - (i as f64 - 4.0).abs()).abs() < 0.02, "{places:?}");
            assert!(place[1].abs() < 0.06);
        }
    }

    #[test]
    fn few_points_and_equal_points_have_places() {
        for rows in 1..6 {
            let same = Tensor::ones((rows, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
            let places = tsne(&same).unwrap();
            assert_eq!(places.len(), rows);
            assert!(places.iter().flatten().all(|c| c.is_finite()));
        }
    }
}
