// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/layers/flow.hpp>
#include <tuple>

namespace diffeo::inline DIFFEO_ISA {

/// A flow with its directions exchanged: forward() is the inverse() of L where L has one, and the other way round.
template <class L>
struct Invert {
  using Scalar = typename L::Scalar;

  L layer;

  Index dim() const { return layer.dim(); }

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("", self.layer);
  }
  template <class Self>
  static auto settings(Self&) {
    return diffeo::settings("inverted", true);
  }
  template <class U>
  auto rebind() const {
    using Lifted = decltype(layer.template rebind<U>());
    return Invert<Lifted>{layer.template rebind<U>()};
  }

  template <Traced X>
  Transformed<X> forward(const X& z, const Pass<Scalar>& pass = {}) const
    requires HasInverse<L, X>
  {
    return call_inverse(layer, z, pass);
  }
  template <Traced X>
  Transformed<X> inverse(const X& x, const Pass<Scalar>& pass = {}) const
    requires HasForward<L, X>
  {
    return call_forward(layer, x, pass);
  }
};

template <class L>
Invert(L) -> Invert<L>;
template <class L>
Invert(Invert<L>) -> Invert<Invert<L>>;  // and not a copy

}  // namespace diffeo::inline DIFFEO_ISA
