// SPDX-License-Identifier: MIT
#include <diffeo/training/progress.hpp>

#include "../catch.hpp"

using diffeo::ProgressBar;

TEST_CASE("the text of the progress bar", "[training]") {
  CHECK(ProgressBar::line(0, 200, 1.5, 0) ==
        "\r  0% [........................] 0/200  0.00 ms/step  loss 1.5000  ETA 0:00 ");
  CHECK(ProgressBar::line(50, 200, 2.39012, 10) ==
        "\r 25% [######..................] 50/200  200.00 ms/step  loss 2.3901  ETA 0:30 ");
  CHECK(ProgressBar::line(100, 1000, -1.25, 20) ==
        "\r 10% [##......................] 100/1000  200.00 ms/step  loss -1.2500  ETA 3:00 ");
  CHECK(ProgressBar::line(200, 200, 0, 1) ==
        "\r100% [########################] 200/200  5.00 ms/step  loss 0.0000  ETA 0:00 ");
  CHECK(contains(ProgressBar::line(1, 4000, 0, 2), "ETA 133:18"));
  CHECK(contains(ProgressBar::line(0, 0, 0, 0), "\r100% [########################] 0/0"));
}

TEST_CASE("no number is too large for the progress bar", "[training]") {
  const std::string line = ProgressBar::line(1000000000000L, 2000000000000L, 1e300, 1e15);
  CHECK(line.size() < 200);
  CHECK(contains(line, " 50% [############............]"));
}
