// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <diffeo/core/instruction_set.hpp>
#include <string_view>

/// Explicit Runge-Kutta methods as data.
namespace diffeo::inline DIFFEO_ISA::ode {

/// Explicit Runge-Kutta methods. `error`: orders of the embedded error estimates, if there are any.
///
/// | method   | order | error | evaluations a step | source                                        |
/// |----------|-------|-------|--------------------|-----------------------------------------------|
/// | euler    | 1     | -     | 1                  | Euler 1768                                    |
/// | midpoint | 2     | -     | 2                  | Runge 1895                                    |
/// | heun     | 2     | 1     | 2                  | Heun 1900; error estimate by the Euler method |
/// | rk4      | 4     | -     | 4                  | Kutta 1901                                    |
/// | bosh3    | 3     | 2     | 3                  | Bogacki, Shampine 1989, Appl. Math. Lett. 2   |
/// | dopri5   | 5     | 4     | 6                  | Dormand, Prince 1980, J. Comp. Appl. Math. 6  |
/// | tsit5    | 5     | 4     | 6                  | Tsitouras 2011, Comput. Math. Appl. 62        |
/// | dopri8   | 8     | 5, 3  | 12                 | DOP853: Hairer et al., Solving ODEs I, II.5   |
enum class Method { euler, midpoint, heun, rk4, bosh3, dopri5, tsit5, dopri8 };

/// Largest number of stages of any method, including those of its dense output.
inline constexpr std::size_t max_stages = 16;

/// Kind of interpolant that gives the solution at t + theta h within a step, 0 <= theta <= 1.
enum class DenseOutput {
  hermite,  ///< cubic polynomial through the values and slopes at both ends
  weights,  ///< y + h sum_i b_i(theta) k_i with polynomials b_i of degree 4 without constant term
  extended  ///< degree 7 as in DOP853, from the values and slopes at both ends and additional stages
};

/// Butcher tableau: k_i = f(t + c_i h, y + h sum_{j < i} a_ij k_j), y(t + h) = y + h sum_i b_i k_i. Rows with index
/// >= `stages` define stages that only dense output needs; the first of them is f(t + h, y(t + h)) unless the last
/// stage is that already. If `first_same_as_last`, the last stage is f(t + h, y(t + h)), the first stage of the next
/// step.
struct Tableau {
  std::string_view name;
  std::size_t stages = 0;
  int order = 0;
  int error_order = 0;  ///< the error estimate is O(h^error_order) (1 + the embedded order); 0: no error estimate
  bool first_same_as_last = false;
  bool twin_ends = false;  ///< whether the last two stages both lie at t + h, so that they give a stiffness estimate
  std::array<double, max_stages> c{};
  std::array<std::array<double, max_stages>, max_stages> a{};
  std::array<double, max_stages> b{};
  std::array<double, max_stages> e{};        ///< error estimate: h sum_i e_i k_i
  std::array<double, max_stages> damping{};  ///< second error estimate of DOP853, of order 3: h sum_i damping_i k_i
  DenseOutput dense = DenseOutput::hermite;
  int dense_degree = 3;          ///< degree of the dense output, whose local error is O(h^(dense_degree + 1))
  std::size_t dense_stages = 0;  ///< number of additional stages of the dense output
  /// Coefficients of the dense output. For DenseOutput::weights row d holds the coefficients of theta^(d + 1) of all
  /// b_i; for DenseOutput::extended the rows are d_4i ... d_7i in the notation of Hairer, Solving ODEs I, II.6.
  std::array<std::array<double, max_stages>, 4> dense_weights{};

  /// Returns whether the method has an error estimate, which adaptive steps need.
  constexpr bool adaptive() const { return error_order > 0; }
  /// Returns the index of the stage that is f(t + h, y(t + h)); it equals `stages` if only dense output computes it.
  constexpr std::size_t end_stage() const { return first_same_as_last ? stages - 1 : stages; }
  /// Returns whether the error is estimated as in DOP853, |e|^2 / |(e, damping / 10)|.
  constexpr bool damped() const { return dense == DenseOutput::extended; }
  /// Returns the number of evaluations of f per step. A first-same-as-last method needs one more at the start of a
  /// solve.
  constexpr std::size_t evaluations() const { return stages - (first_same_as_last ? 1 : 0); }
};

namespace detail {

inline constexpr Tableau euler_tableau = {
    .name = "euler", .stages = 1, .order = 1, .c = {0, 1}, .a = {{{}, {1}}}, .b = {1}, .dense_stages = 1};

inline constexpr Tableau midpoint_tableau = {.name = "midpoint",
                                             .stages = 2,
                                             .order = 2,
                                             .c = {0, 0.5, 1},
                                             .a = {{{}, {0.5}, {0, 1}}},
                                             .b = {0, 1},
                                             .dense_stages = 1};

inline constexpr Tableau heun_tableau = {.name = "heun",
                                         .stages = 2,
                                         .order = 2,
                                         .error_order = 2,
                                         .c = {0, 1, 1},
                                         .a = {{{}, {1}, {0.5, 0.5}}},
                                         .b = {0.5, 0.5},
                                         .e = {-0.5, 0.5},
                                         .dense_stages = 1};

inline constexpr Tableau rk4_tableau = {.name = "rk4",
                                        .stages = 4,
                                        .order = 4,
                                        .c = {0, 0.5, 0.5, 1, 1},
                                        .a = {{{}, {0.5}, {0, 0.5}, {0, 0, 1}, {1.0 / 6, 1.0 / 3, 1.0 / 3, 1.0 / 6}}},
                                        .b = {1.0 / 6, 1.0 / 3, 1.0 / 3, 1.0 / 6},
                                        .dense_stages = 1};

inline constexpr Tableau bosh3_tableau = {.name = "bosh3",
                                          .stages = 4,
                                          .order = 3,
                                          .error_order = 3,
                                          .first_same_as_last = true,
                                          .c = {0, 0.5, 0.75, 1},
                                          .a = {{{}, {0.5}, {0, 0.75}, {2.0 / 9, 1.0 / 3, 4.0 / 9}}},
                                          .b = {2.0 / 9, 1.0 / 3, 4.0 / 9},
                                          .e = {-5.0 / 72, 1.0 / 12, 1.0 / 9, -1.0 / 8}};

// Dense output: Shampine 1986, Math. Comp. 46, as in Hairer, Solving ODEs I, II.6.
inline constexpr Tableau dopri5_tableau = {
    .name = "dopri5",
    .stages = 7,
    .order = 5,
    .error_order = 5,
    .first_same_as_last = true,
    .twin_ends = true,
    .c = {0, 1.0 / 5, 3.0 / 10, 4.0 / 5, 8.0 / 9, 1, 1},
    .a = {{{},
           {1.0 / 5},
           {3.0 / 40, 9.0 / 40},
           {44.0 / 45, -56.0 / 15, 32.0 / 9},
           {19372.0 / 6561, -25360.0 / 2187, 64448.0 / 6561, -212.0 / 729},
           {9017.0 / 3168, -355.0 / 33, 46732.0 / 5247, 49.0 / 176, -5103.0 / 18656},
           {35.0 / 384, 0, 500.0 / 1113, 125.0 / 192, -2187.0 / 6784, 11.0 / 84}}},
    .b = {35.0 / 384, 0, 500.0 / 1113, 125.0 / 192, -2187.0 / 6784, 11.0 / 84},
    .e = {71.0 / 57600, 0, -71.0 / 16695, 71.0 / 1920, -17253.0 / 339200, 22.0 / 525, -1.0 / 40},
    .dense = DenseOutput::weights,
    .dense_degree = 4,
    .dense_weights = {{{1},
                       {-8048581381.0 / 2820520608, 0, 131558114200.0 / 32700410799, -1754552775.0 / 470086768,
                        127303824393.0 / 49829197408, -282668133.0 / 205662961, 40617522.0 / 29380423},
                       {8663915743.0 / 2820520608, 0, -68118460800.0 / 10900136933, 14199869525.0 / 1410260304,
                        -318862633887.0 / 49829197408, 2019193451.0 / 616988883, -110615467.0 / 29380423},
                       {-12715105075.0 / 11282082432, 0, 87487479700.0 / 32700410799, -10690763975.0 / 1880347072,
                        701980252875.0 / 199316789632, -1453857185.0 / 822651844, 69997945.0 / 29380423}}}};

// The last error weight as printed in the paper has the wrong sign.
inline constexpr Tableau tsit5_tableau = {
    .name = "tsit5",
    .stages = 7,
    .order = 5,
    .error_order = 5,
    .first_same_as_last = true,
    .twin_ends = true,
    .c = {0, 0.161, 0.327, 0.9, 0.9800255409045097, 1, 1},
    .a = {{{},
           {0.161},
           {-0.008480655492356989, 0.335480655492357},
           {2.8971530571054935, -6.359448489975075, 4.3622954328695815},
           {5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525},
           {5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.028269050394068383},
           {0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081, 2.324710524099774}}},
    .b = {0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081, 2.324710524099774},
    .e = {0.00178001105222577714, 0.0008164344596567469, -0.007880878010261995, 0.1447110071732629, -0.5823571654525552,
          0.45808210592918697, -1.0 / 66},
    .dense = DenseOutput::weights,
    .dense_degree = 4,
    .dense_weights = {
        {{1},
         {-2.763706197274826, 0.1317, 3.9302962368947516, -12.411077166933676, 37.50931341651104, -27.896526289197286,
          1.5},
         {2.9132554618219126, -0.2234, -5.941033872131505, 30.33818863028232, -88.1789048947664, 65.09189467479366, -4},
         {-1.0530884977290216, 0.1017, 2.490627285651253, -16.548102889244902, 47.37952196281928, -34.87065786149661,
          2.5}}}};

constexpr Tableau make_dopri8() {
  Tableau t = {
      .name = "dopri8",
      .stages = 13,
      .order = 8,
      .error_order = 8,  // |e|^2 / |(e, damping / 10)| with e of order 6 and damping of order 4 in h
      .first_same_as_last = true,
      .twin_ends = true,
      .c = {0E-1, 0.052600151958767731879, 0.078900227938151597818, 0.11835034190722739673, 0.28164965809277260327,
            0.33333333333333333333, 0.25, 0.30769230769230769231, 0.65128205128205128205, 0.6, 0.85714285714285714286,
            1.0, 1.0, 0.1, 0.2, 0.77777777777777777778},
      .a = {{{},
             {0.052600151958767731879},
             {0.019725056984537899454, 0.059175170953613698363},
             {0.029587585476806849182, 0, 0.088762756430420547545},
             {0.24136513415926668550, 0, -0.88454947932828608534, 0.92483400326179200312},
             {0.037037037037037037037, 0, 0, 0.17082860872947387128, 0.12546768756682242502},
             {0.037109375, 0, 0, 0.17025221101954403931, 0.060216538980455960685, -0.017578125},
             {0.037092000118504792711, 0, 0, 0.17038392571223999381, 0.10726203044637328465, -0.015319437748624401753,
              0.0082737891638140228876},
             {0.62411095871607571711, 0, 0, -3.3608926294469412941, -0.86821934684172600682, 27.592099699446708305,
              20.154067550477893409, -43.489884181069958848},
             {0.47766253643826436589, 0, 0, -2.4881146199716676419, -0.59029082683684299637, 21.230051448181194235,
              15.279233632882423583, -33.288210968984862919, -0.020331201708508626136},
             {-0.93714243008598732572, 0, 0, 5.1863724288440637083, 1.0914373489967295782, -8.1497870107469261251,
              -18.520065659996959864, 22.739487099350504282, 2.4936055526796523899, -3.0467644718982195004},
             {2.2733101475165382079, 0, 0, -10.534495466737250198, -2.0008720582248624991, -17.958931863118798917,
              27.948884529419960051, -2.8589982771350236947, -8.8728569335306295443, 12.360567175794303065,
              0.64339274601576353036},
             {0.054293734116568762238, 0, 0, 0, 0, 4.4503128927524088814, 1.8915178993145003830, -5.8012039600105847815,
              0.31116436695781989441, -0.15216094966251607856, 0.20136540080403034837, 0.044710615727772590518},
             {0.056167502283047952339, 0, 0, 0, 0, 0, 0.25350021021662481109, -0.24623903747080248992,
              -0.12419142326381636047, 0.15329179827876569731, 0.0082010522956346898849, 0.0075678976605456997614,
              -0.008298},
             {0.031834648163502140506, 0, 0, 0, 0, 0.028300909672366775529, 0.053541988307438567622,
              -0.054923748571390988465, 0, 0, -0.00010834732869724932286, 0.00038257109083565841295,
              -0.00034046500868740456080, 0.14131244367463250028},
             {-0.42889630158379192341, 0, 0, 0, 0, -4.6976214153611638431, 7.6834211960625990418, 4.0689898183971100797,
              0.35672718745528110927, 0, 0, 0, -0.0013990241651590146213, 2.9475147891527723390,
              -9.1509584721798700108}}},
      .b = {0.054293734116568762238, 0, 0, 0, 0, 4.4503128927524088814, 1.8915178993145003830, -5.8012039600105847815,
            0.31116436695781989441, -0.15216094966251607856, 0.20136540080403034837, 0.044710615727772590518},
      .e = {0.013120044994194880733, 0, 0, 0, 0, -1.2251564463762044407, -0.49575894965725019152, 1.6643771824549865370,
            -0.35032884874997368169, 0.33417911871301747903, 0.081923206485115712466, -0.022355307863886295259},
      .dense = DenseOutput::extended,
      .dense_degree = 7,
      .dense_stages = 3,
      .dense_weights = {
          {{-8.4289382761090128651, 0, 0, 0, 0, 0.56671495351937776963, -3.0689499459498916913, 2.3846676565120698288,
            2.1170345824450282767, -0.87139158377797299207, 2.2404374302607882759, 0.63157877876946881816,
            -0.088990336451333310821, 18.148505520854727257, -9.1946323924783554000, -4.4360363875948939664},
           {10.427508642579134603, 0, 0, 0, 0, 242.28349177525818288, 165.20045171727028199, -374.54675472269020280,
            -22.113666853125306036, 7.7334326684722638390, -30.674084731089398182, -9.3321305264302278730,
            15.697238121770843886, -31.139403219565177677, -9.3529243588444783866, 35.816841486394083752},
           {19.985053242002433821, 0, 0, 0, 0, -387.03730874935176555, -189.17813819516756883, 527.80815920542364901,
            -11.573902539959630126, 6.8812326946963000170, -1.0006050966910838403, 0.77771377980534432093,
            -2.7782057523535084066, -60.196695231264120758, 84.320405506677161018, 11.992291136182789328},
           {-25.693933462703749003, 0, 0, 0, 0, -154.18974869023643374, -231.52937917604549568, 357.63911791061412378,
            93.405324183624310004, -37.458323136451633157, 104.09964950896230045, 29.840293426660503123,
            -43.533456590011143754, 96.324553959188282948, -39.177261675615439165, -149.72683625798562581}}}};
  t.damping = t.b;
  t.damping[0] -= 0.244094488188976377952755905512;
  t.damping[8] -= 0.733846688281611857341361741547;
  t.damping[11] -= 0.0220588235294117647058823529412;
  return t;
}

inline constexpr Tableau dopri8_tableau = make_dopri8();

}  // namespace detail

/// Returns the tableau of a method.
constexpr const Tableau& tableau(Method method) {
  switch (method) {
    case Method::euler:
      return detail::euler_tableau;
    case Method::midpoint:
      return detail::midpoint_tableau;
    case Method::heun:
      return detail::heun_tableau;
    case Method::rk4:
      return detail::rk4_tableau;
    case Method::bosh3:
      return detail::bosh3_tableau;
    case Method::tsit5:
      return detail::tsit5_tableau;
    case Method::dopri8:
      return detail::dopri8_tableau;
    case Method::dopri5:
      break;
  }
  return detail::dopri5_tableau;
}

inline std::string_view to_string(Method method) { return tableau(method).name; }

}  // namespace diffeo::inline DIFFEO_ISA::ode
