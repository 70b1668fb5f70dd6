// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/core/instruction_set.hpp>
#include <memory>
#include <type_traits>
#include <utility>

namespace diffeo::inline DIFFEO_ISA {

template <class Signature>
class FunctionRef;

/// A reference to a callable object that hides its type, so that the function it is given to is compiled once for all
/// callables. It owns nothing: the callable must outlive it, as a lambda in the argument list of a call does.
template <class R, class... Args>
class FunctionRef<R(Args...)> {
 public:
  template <class F>
    requires(!std::is_same_v<std::remove_cvref_t<F>, FunctionRef> && std::is_invocable_r_v<R, F&, Args...>)
  FunctionRef(F&& f)  // NOLINT: converts implicitly, as a reference does
      : callable_(const_cast<void*>(static_cast<const void*>(std::addressof(f)))),
        call_([](void* callable, Args... args) -> R {
          return (*static_cast<std::remove_reference_t<F>*>(callable))(std::forward<Args>(args)...);
        }) {}

  R operator()(Args... args) const { return call_(callable_, std::forward<Args>(args)...); }

 private:
  void* callable_;
  R (*call_)(void*, Args...);
};

}  // namespace diffeo::inline DIFFEO_ISA
