// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/layers/flow.hpp>
#include <tuple>

namespace diffeo::inline DIFFEO_ISA {

/// A flow with its directions exchanged. What it offers is what the other direction of L offers.
template <class L>
struct Invert {
  using Scalar = typename L::Scalar;

  L layer;

  Index dim() const { return layer.dim(); }

  template <class Self>
  static auto fields(Self& self) {
    return std::tie(self.layer);
  }
  template <class U>
  auto rebind() const {
    using Lifted = decltype(layer.template rebind<U>());
    return Invert<Lifted>{layer.template rebind<U>()};
  }

  template <Traced X>
  Transformed<X> forward(const X& z) const
    requires HasInverse<L, X>
  {
    return layer.inverse(z);
  }
  template <Traced X>
  Transformed<X> inverse(const X& x) const
    requires HasForward<L, X>
  {
    return layer.forward(x);
  }
};

template <class L>
Invert(L) -> Invert<L>;
template <class L>
Invert(Invert<L>) -> Invert<Invert<L>>;  // and not a copy

}  // namespace diffeo::inline DIFFEO_ISA
