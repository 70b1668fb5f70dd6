// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <sstream>
#include <stdexcept>
#include <string>

/// Errors. Misuse and bad data always throw, in every build type; nothing wrong passes silently.
namespace diffeo {

/// Misuse: wrong shape, dimension, range or option. The message names the function and argument, what was expected and
/// what came: "log_prob: x has 3 columns, this flow has dimension 2".
class invalid_argument : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

/// A file that is missing, truncated, corrupt or not of the expected kind. The message names the file.
class io_error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

namespace detail {

template <class... Parts>
std::string concat_message(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

}  // namespace detail

/// An iteration that did not reach its tolerance within its bound, or met NaN. The message names all of it: "planar
/// inverse: row 5 did not converge: residual 0.25 after 200 iterations".
class convergence_error : public std::runtime_error {
 public:
  convergence_error(const std::string& what, std::ptrdiff_t sample, double residual, int iterations)
      : std::runtime_error(detail::concat_message(what, ": row ", sample, " did not converge: residual ", residual,
                                                  " after ", iterations, " iterations")),
        solver_(what),
        sample_(sample),
        residual_(residual),
        iterations_(iterations) {}

  const std::string& solver() const { return solver_; }  ///< what was solved, for instance "planar inverse"
  std::ptrdiff_t sample() const { return sample_; }      ///< the row
  double residual() const { return residual_; }          ///< by how much the equation was missed
  int iterations() const { return iterations_; }

  /// The same for a batch of which the block that was solved is the rows from `first` on.
  convergence_error in_batch(std::ptrdiff_t first) const { return {solver_, first + sample_, residual_, iterations_}; }

 private:
  std::string solver_;
  std::ptrdiff_t sample_;
  double residual_;
  int iterations_;
};

/// Throws `invalid_argument` with the concatenation of `parts` unless `condition` holds.
template <class... Parts>
void require(bool condition, const Parts&... parts) {
  if (!condition) [[unlikely]]
    throw invalid_argument(detail::concat_message(parts...));
}

/// Throws `invalid_argument` with the row and column of the first entry (in row order) that is NaN or infinite.
/// `what` names function and argument, for instance "fit: data".
template <class Derived>
void require_finite(const Derived& x, const char* what) {
  // One pass that the compiler can vectorise; the search for the place happens only when something is wrong.
  if (x.size() == 0 || x.allFinite()) return;
  for (auto i = x.rows() * 0; i < x.rows(); ++i)
    for (auto j = x.cols() * 0; j < x.cols(); ++j)
      require(std::isfinite(x(i, j)), what, " is ", x(i, j), " at (row ", i, ", column ", j,
              "), expected finite values");
}

}  // namespace diffeo
