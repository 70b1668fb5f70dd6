// SPDX-License-Identifier: MIT
#pragma once

#include <charconv>
#include <cmath>
#include <cstddef>
#include <diffeo/core/instruction_set.hpp>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>

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

/// One part of a message: text, a character or a number. Refers to the text, which must outlive it.
class MessagePart {
 public:
  MessagePart(const char* text) : kind_(Kind::literal) { value_.text = text; }
  MessagePart(std::string_view text) : kind_(Kind::text), size_(text.size()) { value_.text = text.data(); }
  MessagePart(const std::string& text) : MessagePart(std::string_view(text)) {}
  MessagePart(char c) : kind_(Kind::character) { value_.character = c; }
  MessagePart(signed char c) : MessagePart(static_cast<char>(c)) {}
  MessagePart(unsigned char c) : MessagePart(static_cast<char>(c)) {}
  MessagePart(int n) : MessagePart(static_cast<long long>(n)) {}
  MessagePart(long n) : MessagePart(static_cast<long long>(n)) {}
  MessagePart(long long n) : kind_(Kind::integer) { value_.integer = n; }
  MessagePart(unsigned n) : MessagePart(static_cast<unsigned long long>(n)) {}
  MessagePart(unsigned long n) : MessagePart(static_cast<unsigned long long>(n)) {}
  MessagePart(unsigned long long n) : kind_(Kind::natural) { value_.natural = n; }
  MessagePart(double x) : kind_(Kind::real) { value_.real = x; }
  MessagePart(const void*) = delete;  // would become a bool

  void append_to(std::string& message) const {
    char digits[32];
    const auto append_number = [&](const auto&... number) {
      message.append(digits, std::to_chars(digits, digits + sizeof digits, number...).ptr);
    };
    switch (kind_) {
      case Kind::literal:
        message.append(value_.text);
        break;
      case Kind::text:
        message.append(value_.text, size_);
        break;
      case Kind::character:
        message.push_back(value_.character);
        break;
      case Kind::integer:
        append_number(value_.integer);
        break;
      case Kind::natural:
        append_number(value_.natural);
        break;
      case Kind::real:
        append_number(value_.real, std::chars_format::general, 6);
        break;
    }
  }

 private:
  enum class Kind { literal, text, character, integer, natural, real };

  Kind kind_;
  std::size_t size_ = 0;
  union {
    const char* text;
    char character;
    long long integer;
    unsigned long long natural;
    double real;
  } value_;
};

// The two functions are no templates and are never inlined: what puts messages together is compiled once, not at each
// of its many calls.

/// Returns the parts one after another: text as it stands, numbers as an output stream writes them, with six
/// significant digits, in the format of the C locale.
[[gnu::cold, gnu::noinline]] inline std::string concat_message(std::initializer_list<MessagePart> parts) {
  std::string message;
  for (const MessagePart& part : parts) part.append_to(message);
  return message;
}
template <class... Parts>
std::string concat_message(const Parts&... parts) {
  return concat_message({MessagePart(parts)...});
}

/// Throws `invalid_argument` with the concatenation of `parts`.
[[noreturn, gnu::cold, gnu::noinline]] inline void throw_invalid_argument(std::initializer_list<MessagePart> parts) {
  throw invalid_argument(concat_message(parts));
}

/// Something that had to be solved for one sample and was not. It names the row of the arrays that the solver was
/// given; a caller that passed rows of its own data catches it and throws it again with the row of those, whatever its
/// type: `catch (const solver_error& e) { e.throw_for(first + e.sample()); }`.
class solver_error : public std::runtime_error {
 public:
  const std::string& solver() const { return solver_; }  ///< what was solved, for instance "planar inverse"
  std::ptrdiff_t sample() const { return sample_; }      ///< the row

  /// Throws the same error, of the same type, for another row.
  [[noreturn]] virtual void throw_for(std::ptrdiff_t sample) const = 0;

 protected:
  solver_error(const std::string& solver, std::ptrdiff_t sample, const std::string& failure)
      : std::runtime_error(concat_message(solver, ": row ", sample, ' ', failure)), solver_(solver), sample_(sample) {}

 private:
  std::string solver_;
  std::ptrdiff_t sample_;
};

/// An iteration that did not reach its tolerance within its bound, or met NaN. The message names all of it: "planar
/// inverse: row 5 did not converge: residual 0.25 after 200 iterations".
class convergence_error : public solver_error {
 public:
  convergence_error(const std::string& what, std::ptrdiff_t sample, double residual, int iterations)
      : solver_error(what, sample,
                     concat_message("did not converge: residual ", residual, " after ", iterations, " iterations")),
        residual_(residual),
        iterations_(iterations) {}

  double residual() const { return residual_; }  ///< by how much the equation was missed
  int iterations() const { return iterations_; }

  [[noreturn]] void throw_for(std::ptrdiff_t sample) const override {
    throw convergence_error(solver(), sample, residual_, iterations_);
  }

 private:
  double residual_;
  int iterations_;
};

/// Where the integration of an ordinary differential equation ended before its end time.
struct IntegrationFailure {
  std::string reason;    ///< for instance "the step size fell to its lower bound"
  double t = 0;          ///< the time that was reached
  double step = 0;       ///< the step that was tried last, signed
  double error = 0;      ///< its error in units of the tolerance, 0 without error control
  double stiffness = 0;  ///< estimated |eigenvalue| of the field's Jacobian, 0 where there is none
};

/// A differential equation that was not integrated to its end. The message names all of it: "cnf inverse: row 5 was not
/// integrated: max_steps were not enough at t = 0.25, step 0.001, error 1.5, stiffness 3300".
class integration_error : public solver_error {
 public:
  integration_error(const std::string& what, std::ptrdiff_t sample, const IntegrationFailure& failure)
      : solver_error(what, sample,
                     concat_message("was not integrated: ", failure.reason, " at t = ", failure.t, ", step ",
                                    failure.step, ", error ", failure.error, ", stiffness ",
                                    failure.stiffness > 0 ? concat_message(failure.stiffness) : "unknown")),
        failure_(failure) {}

  const std::string& reason() const { return failure_.reason; }
  double t() const { return failure_.t; }
  double step() const { return failure_.step; }
  double error() const { return failure_.error; }
  double stiffness() const { return failure_.stiffness; }

  [[noreturn]] void throw_for(std::ptrdiff_t sample) const override {
    throw integration_error(solver(), sample, failure_);
  }

 private:
  IntegrationFailure failure_;
};

/// Throws `invalid_argument` with the concatenation of `parts` unless `condition` holds. Always inlined: a call would
/// write the parts to memory, to pass references to them, even where the condition holds.
template <class... Parts>
[[gnu::always_inline]] inline void require(bool condition, const Parts&... parts) {
  if (!condition) [[unlikely]]
    throw_invalid_argument({MessagePart(parts)...});
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
