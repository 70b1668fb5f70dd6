// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstdint>
#include <diffeo/core/parallel.hpp>
#include <diffeo/training/adam.hpp>
#include <diffeo/training/schedule.hpp>
#include <optional>

namespace diffeo::inline DIFFEO_ISA {

/// Settings of a training, for fit() and, as far as single steps go, for Trainer.
///
/// | option              | type          | default                                                                 |
/// |---------------------|---------------|-------------------------------------------------------------------------|
/// | steps               | long          | 8000                                                                    |
/// | batch               | Index         | 512 rows a step, at most the rows there are                             |
/// | rate                | LearningRate  | what suits the model, in most cases 2e-3; cosine                        |
/// | adam                | AdamOptions   |                                                                         |
/// | clip_norm           | double        | 0: off; else gradients are scaled down to this norm over all parameters |
/// | clip_ratio          | double        | what suits the objective, in most cases 1.2: gradients are scaled       |
/// |                     |               | down to this multiple of the running mean of their norms; 0: off        |
/// | ema_decay           | double        | 0: off; else the model ends with parameters averaged over the steps     |
/// | validation_fraction | double        | 0: none; else this share of the rows, chosen by seed, is held out       |
/// | validation_every    | long          | 100 steps                                                               |
/// | patience            | long          | 0: off; else stop after so many validations without improvement         |
/// | max_recoveries      | long          | 10: times that a training which goes wrong goes back and on at half the |
/// |                     |               | rate, see fit(); 0: it ends                                             |
/// | divergence          | double        | 5: multiples of the loss's noise by which it leaves the best when it    |
/// |                     |               | diverges, see LossWatch; 0: no loss that is finite is a divergence      |
/// | seed                | std::uint64_t | 0, of the split, the order of rows and noise                            |
/// | threads             | int           | 0: one per processor; a step uses at most Trainer::shards()             |
/// | progress            | bool          | false; true: a bar on stderr, if that is a terminal                     |
struct FitOptions {
  long steps = 8000;
  Index batch = 512;
  LearningRate rate = {};
  AdamOptions adam = {};
  double clip_norm = 0;
  std::optional<double> clip_ratio = std::nullopt;
  double ema_decay = 0;
  double validation_fraction = 0;
  long validation_every = 100;
  long patience = 0;
  long max_recoveries = 10;
  double divergence = 5;
  std::uint64_t seed = 0;
  int threads = 0;
  bool progress = false;

  /// Throws invalid_argument for an option out of range.
  void check() const {
    require(steps >= 0, "fit: steps is ", steps, ", expected at least 0");
    require(batch >= 1, "fit: batch is ", batch, ", expected at least 1");
    rate.check();
    adam.check();
    require(clip_norm >= 0 && std::isfinite(clip_norm), "fit: clip_norm is ", clip_norm, ", expected >= 0");
    const double ratio = clip_ratio.value_or(0);
    require(ratio == 0 || (ratio >= 1 && std::isfinite(ratio)), "fit: clip_ratio is ", ratio, ", expected 0 or >= 1");
    require(ema_decay >= 0 && ema_decay < 1, "fit: ema_decay is ", ema_decay, ", expected 0 <= ema_decay < 1");
    require(validation_fraction >= 0 && validation_fraction < 1, "fit: validation_fraction is ", validation_fraction,
            ", expected 0 <= validation_fraction < 1");
    require(validation_every >= 1, "fit: validation_every is ", validation_every, ", expected at least 1");
    require(patience >= 0, "fit: patience is ", patience, ", expected at least 0");
    require(max_recoveries >= 0, "fit: max_recoveries is ", max_recoveries, ", expected at least 0");
    require(divergence >= 0 && std::isfinite(divergence), "fit: divergence is ", divergence, ", expected >= 0");
    require(threads >= 0 && threads <= max_threads, "fit: threads is ", threads,
            ", expected 0 (all) or a positive number up to ", max_threads);
  }
};

}  // namespace diffeo::inline DIFFEO_ISA
